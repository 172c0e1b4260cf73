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
    parser.add_argument(
        "--model",
        default="hvae",
        metavar="M",
        help="generator family: hvae (the default: the one that corruptions were seen to help), diffusion (the best "
        "images in the same time, slow to sample), refine, vq, or one of an installed package (see `autopv doctor`)",
    )
    parser.add_argument(
        "--classes",
        action="store_true",
        help="learn of which class (sub-folder of --data, or `labels` in an .npz) each image is, so that "
        "`autopv sample --class` can ask for one; images beside the sub-folders are unlabelled; default: all alike",
    )
    parser.add_argument(
        "--preset",
        metavar="P",
        help="size of the model: tiny, small or base; diffusion and vq have -joint ones beside, vq has -masked ones, "
        "other packages have their own; default: the smallest",
    )
    parser.add_argument(
        "--metric",
        default="auto",
        metavar="M",
        help="last-frame distance: fd_lite0, kid_lite0, fid, kid, fd_EXTRACTOR or kid_EXTRACTOR; default: fd_lite0, "
        "or kid_lite0 where the images are few",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of splits, proposals and training")


def strategy_flags(parser: argparse.ArgumentParser) -> None:
    """How a search goes about it."""
    parser.add_argument(
        "--sampler",
        choices=("tpe", "random", "gp", "evolution", "reinforce", "belief"),
        default="tpe",
        help="who proposes policies: tpe (default), random, gp (a Gaussian process), evolution (regularised), "
        "reinforce (an AutoAugment-style controller), or belief (what is expected from all looks so far)",
    )
    parser.add_argument(
        "--stopping",
        choices=("halving", "none", "top-k"),
        default="halving",
        help="of trials half way: halving stops the worse half, none nobody, top-k all, and lets the best go on at the "
        "end",
    )
    parser.add_argument(
        "--repeats",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="of the trials, to run the most promising policies again on other seeds; 0: never",
    )
    parser.add_argument(
        "--screen",
        type=float,
        default=0.8,
        metavar="R2",
        help="policies whose frames together leave less of the image than this (R^2) are not tried; 0: all are",
    )
    parser.add_argument(
        "--train-for",
        default="trial",
        metavar="T",
        help="the training that you will do with the policy: image-only steps such as 5400, or device time such as "
        "20gpu-h; trials become as long as the budget allows, up to that; default: as long as a trial",
    )
    parser.add_argument(
        "--warm-start",
        nargs="+",
        metavar="FILE_OR_RUN",
        help="policy files or run folders of other data: their policies are tried first, in a tenth of the trials",
    )


def plan_flags(parser: argparse.ArgumentParser) -> None:
    """How a model is trained."""
    parser.add_argument("--batch-size", type=positive, metavar="N", help="images a step; default: the plan's, 32")
    parser.add_argument("--learning-rate", type=float, metavar="R", help="of AdamW, at its height; default: the plan's")
    parser.add_argument(
        "--kl-weight",
        type=float,
        metavar="W",
        help="how often the KL terms of hvae count in its loss; above 1 helps where few simple images are learnt by "
        "heart; default: the plan's, 1",
    )
    parser.add_argument(
        "--flips", action="store_true", help="mirror half of the images, where left and right are alike"
    )


def workers_flags(parser: argparse.ArgumentParser) -> None:
    """Who trains a model together."""
    parser.add_argument(
        "--num-workers",
        type=positive,
        default=1,
        metavar="N",
        help="processes that train together, each on a GPU (or core) of its own with an equal part of every batch; "
        "--batch-size stays that of the whole, so another number trains the same model, up to rounding",
    )
    parser.add_argument(
        "--address",
        metavar="A",
        help="Ray cluster whose devices the workers get: auto, or host:port; images, cache and --out must lie where "
        "all machines see them; default: this machine alone",
    )


def out_flag(parser: argparse.ArgumentParser, help_text: str, *, required: bool = False) -> None:
    """Where to write."""
    parser.add_argument("--out", type=Path, required=required, metavar="PATH", help=help_text)
