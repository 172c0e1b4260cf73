"""Flags that several commands share."""

import argparse
from pathlib import Path

from autopv.cli.whole_numbers import positive


def data_flags(parser: argparse.ArgumentParser) -> None:
    """Which images, and how they are read."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="D",
        help="folder of images (MVTec-style trees and masks beside images are known), .npz or .npy array, a demo "
        "(elpv, textures), or the training images of a standard set: cifar10, cifar100, mnist, fashionmnist, kmnist, "
        "celeba. NAME:FOLDER, e.g. cifar10:/data, reads torchvision's files below FOLDER; NAME alone downloads them "
        "into ~/.cache/autopv/datasets",
    )
    parser.add_argument(
        "--size", type=positive, metavar="PX", help="side that images are resized to; default: the preset's"
    )
    parser.add_argument("--channels", type=int, choices=(1, 3), help="1 grey, 3 colour; default: what the images have")
    parser.add_argument(
        "--group-by", metavar="REGEX", help="part of the file name that names the object; its images stay in one split"
    )
    parser.add_argument("--strict", action="store_true", help="refuse data with broken images instead of skipping them")


def model_flags(parser: argparse.ArgumentParser) -> None:
    """What is trained, and what it is measured by."""
    parser.add_argument("--model", default="hvae", metavar="M", help="generator family")
    parser.add_argument("--preset", default="tiny", metavar="P", help="size of the model: tiny, small or base")
    parser.add_argument(
        "--metric",
        default="auto",
        metavar="M",
        help="last-frame distance: fd_lite0, kid_lite0, fid, kid, fd_EXTRACTOR or kid_EXTRACTOR; default: fd_lite0, "
        "or kid_lite0 where the images are few",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of splits, proposals and training")


def out_flag(parser: argparse.ArgumentParser, help_text: str, *, required: bool = False) -> None:
    """Where to write."""
    parser.add_argument("--out", type=Path, required=required, metavar="PATH", help=help_text)
