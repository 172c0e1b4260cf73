"""Every command with its flags, defaults and an example."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from autopv import __version__
from autopv.cli import evaluate_command, policy_commands, run_commands, sample_command
from autopv.cli.flags import data_flags, model_flags, out_flag, plan_flags, strategy_flags, workers_flags
from autopv.cli.whole_numbers import not_negative as _not_negative
from autopv.cli.whole_numbers import positive as _positive

_BAD_INPUT = 2
_JSON_EVENTS = "print every event as a line of JSON, the last one being the result"
Run = Callable[[argparse.Namespace], int]


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_BAD_INPUT, f"autopv: {message} (see `{self.prog} --help`)\n")


class _Commands:
    """The commands of one level, each with its help and an example."""

    def __init__(self, parser: argparse.ArgumentParser, *, dest: str) -> None:
        self._subparsers = parser.add_subparsers(dest=dest, required=True, metavar=dest.upper())

    def add(self, name: str, run: Run | None, *, help_text: str, example: str) -> argparse.ArgumentParser:
        sub = self._subparsers.add_parser(
            name,
            help=help_text,
            description=f"{help_text[0].upper()}{help_text[1:]}.",
            epilog=f"Example: {example}",
            formatter_class=_Help,
        )
        if run is not None:
            sub.set_defaults(run=run)
        return sub


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; the parsed arguments hold `run`, which runs the command."""
    parser = _Parser(
        prog="autopv", description="Finds the pseudo-video policy that improves an image generator on your images."
    )
    parser.add_argument("--version", action="version", version=f"autopv {__version__}")
    commands = _Commands(parser, dest="command")
    _add_search(commands)
    _add_train_and_sample(commands)
    _add_evaluate(commands)
    _add_preview_and_ops(commands)
    _add_policy(commands)
    commands.add(
        "doctor",
        run_commands.doctor,
        help_text="say what this machine offers and what is missing for what",
        example="autopv doctor",
    )
    return parser


def _add_search(commands: _Commands) -> None:
    search = commands.add(
        "search",
        run_commands.search,
        help_text="find a policy within a budget, verify it, and train with it",
        example="autopv search --data elpv --budget 10cpu-min",
    )
    data_flags(search)
    model_flags(search)
    search.add_argument(
        "--budget",
        required=True,
        metavar="B",
        help="hard limit, e.g. 10cpu-min, 64gpu-h, 200trials, or several joined by a comma",
    )
    search.add_argument(
        "--space",
        default="stage2_expressive",
        metavar="S",
        help="search space: stage1_noise, stage2_expressive, stage3_defect, or a .toml file",
    )
    strategy_flags(search)
    search.add_argument(
        "--seeds", type=_positive, default=3, metavar="N", help="fresh seeds per arm in the verification"
    )
    search.add_argument(
        "--workers", type=_positive, metavar="N", help="trials at a time, one device each; default: all cores (or GPUs)"
    )
    search.add_argument(
        "--address",
        metavar="A",
        help="Ray cluster to run on: auto, or host:port; images, cache and --out must lie where all machines see them; "
        "default: this machine alone",
    )
    search.add_argument(
        "--trials-per-gpu", type=_positive, default=1, metavar="N", help="trials that share one GPU at a time"
    )
    search.add_argument(
        "--trial-steps",
        type=_positive,
        metavar="N",
        help="image-only steps that a trial's compute pays for; default: chosen from the budget",
    )
    plan_flags(search)
    search.add_argument("--json", action="store_true", help=_JSON_EVENTS)
    out_flag(search, "run folder to make; default: runs/DATE-TIME")

    resume = commands.add(
        "resume",
        run_commands.resume,
        help_text="go on with an interrupted run, or extend one",
        example="autopv resume runs/20261122-1200 --budget +16gpu-h",
    )
    resume.add_argument("out", type=Path, metavar="RUN_DIR", help="run folder")
    resume.add_argument(
        "--budget", metavar="+B", help="what to add to the run's budget, e.g. +16gpu-h: searches on, then verifies anew"
    )
    resume.add_argument(
        "--more-seeds", type=_positive, metavar="N", help="only verify further, with N more fresh seeds per arm"
    )
    resume.add_argument("--json", action="store_true", help=_JSON_EVENTS)

    status = commands.add(
        "status", run_commands.status, help_text="show where a run stands", example="autopv status runs/20261122-1200"
    )
    status.add_argument("out", type=Path, metavar="RUN_DIR", help="run folder")

    report = commands.add(
        "report",
        run_commands.report,
        help_text="write a run as one HTML page, also while it works",
        example="autopv report runs/20261122-1200",
    )
    report.add_argument("folder", type=Path, metavar="RUN_DIR", help="run folder")
    out_flag(report, "page to write, .html; default: RUN_DIR/report.html")


def _add_train_and_sample(commands: _Commands) -> None:
    train = commands.add(
        "train",
        run_commands.train,
        help_text="train a model with a policy, with checkpoints",
        example="autopv train --policy policy.json --data elpv --out model",
    )
    train.add_argument(
        "--policy", required=True, type=Path, metavar="FILE", help="policy JSON, e.g. a run folder's policy.json"
    )
    data_flags(train)
    model_flags(train)
    train.add_argument("--json", action="store_true", help="print the result as JSON")
    train.add_argument(
        "--steps",
        type=_positive,
        default=4800,
        metavar="N",
        help="image-only steps that the training's compute pays for",
    )
    train.add_argument(
        "--looks",
        type=_positive,
        metavar="N",
        help="how often it is measured: at the end, half, a quarter ... of the compute, each time after annealing on a "
        "side branch; default: 4",
    )
    train.add_argument(
        "--patience",
        type=_not_negative,
        metavar="N",
        help="end early when so many looks in a row bring no better distance, 0: never; default: 2",
    )
    train.add_argument(
        "--all-images", action="store_true", help="learn from every image, without measuring: none is left for that"
    )
    train.add_argument(
        "--keep-every",
        type=_positive,
        metavar="N",
        help="also keep the model after every N steps of this training (not image-only steps), not annealed, in "
        "step-N/; default: none",
    )
    train.add_argument("--device", choices=("cpu", "cuda"), help="where to train; default: cuda if there is one")
    workers_flags(train)
    plan_flags(train)
    train.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="of the arithmetic; default: bfloat16 on a GPU that has it, else float32",
    )
    train.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compile the model; default: if a few steps show it to be faster, in trainings of minutes and more",
    )
    train.add_argument("--resume", action="store_true", help="go on with the training in --out")
    train.add_argument(
        "--force",
        action="store_true",
        help="with --resume: go on under other settings, or another version of autopv; says what is dropped",
    )
    out_flag(train, "folder for checkpoints and logs", required=True)

    sample = commands.add(
        "sample",
        sample_command.sample,
        help_text="sample images, or whole videos, from a checkpoint",
        example="autopv sample --checkpoint model --class crack -n 200 --out cracks",
    )
    sample.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder of a checkpoint (`train --out`), or a run folder: its model",
    )
    sample.add_argument("-n", type=_positive, default=64, metavar="N", help="number of images")
    sample.add_argument(
        "--class",
        dest="class_name",
        metavar="NAME",
        help="of a model trained with --classes: images of this class alone; default: of all, as often as among the "
        "training images, in a sub-folder each (`labels` in an .npz)",
    )
    sample.add_argument(
        "--guidance",
        type=float,
        metavar="W",
        help="of a diffusion model or a masked token model trained with --classes: above 1, e.g. 2, images are more "
        "typical of their class and less varied, at twice the passes; default: 1",
    )
    sample.add_argument("--seed", type=int, default=0, help="seed of the samples")
    sample.add_argument("--temperature", type=float, default=1.0, help="below 1: fewer oddities, less variety")
    sample.add_argument(
        "--sampling-steps",
        type=_positive,
        metavar="N",
        help="passes of a diffusion model's sampler, or of a masked token model for each frame: fewer are faster and "
        "worse; default: the model's",
    )
    sample.add_argument(
        "--churn",
        type=float,
        metavar="C",
        help="noise that a diffusion model's sampler takes away and adds anew, e.g. 10; default: 0, none",
    )
    sample.add_argument(
        "--batch",
        type=_positive,
        default=128,
        metavar="N",
        help="images at a time: fewer need less memory; another number draws other images",
    )
    sample.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to sample")
    sample.add_argument(
        "--frames",
        action="store_true",
        help="all frames of each sample, most corrupted first: OUT/00000/1.png and so on, frames_NTCHW in an .npz",
    )
    out_flag(
        sample,
        "folder for PNG files; or .npz (uint8 images); or for a look a .png, and with --frames a .gif or .webp",
        required=True,
    )


def _add_evaluate(commands: _Commands) -> None:
    evaluate = commands.add(
        "evaluate",
        evaluate_command.evaluate,
        help_text="measure generated images against real ones",
        example="autopv evaluate ./defects ./samples --against ./other_samples --train ./seen --out report",
    )
    kinds = "folder, .npz, .npy, demo or standard set (as in search --data), checkpoint or run folder"
    evaluate.add_argument("reference", metavar="REAL", help=f"real images: {kinds}")
    evaluate.add_argument("generated", metavar="GENERATED", help=f"images in question: {kinds}")
    evaluate.add_argument("--against", nargs="+", metavar="OTHER", help="other generated images to compare them with")
    evaluate.add_argument(
        "--train",
        metavar="SEEN",
        help="real images that the generators learnt from: for the floor and the memorisation check; "
        "default: found out for autopv's models, else REAL is halved",
    )
    evaluate.add_argument(
        "--extractor",
        default="lite0",
        metavar="E",
        help="lite0, inception (official FID and KID), inception-legacy, a TorchScript file, an entry point, or "
        "module:network",
    )
    evaluate.add_argument(
        "--size", type=_positive, metavar="PX", help="side all images are brought to; default: the generated ones'"
    )
    evaluate.add_argument("-n", type=_positive, metavar="N", help="images a side; default: as many as there are")
    evaluate.add_argument(
        "--samples", type=_positive, metavar="N", help="images that a model generates; default: REAL's, 512 to 2048"
    )
    evaluate.add_argument(
        "--group-by", metavar="REGEX", help="as in the training: part of the file name that names the object"
    )
    evaluate.add_argument("--strict", action="store_true", help="refuse broken images instead of leaving them out")
    evaluate.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to sample and to extract")
    evaluate.add_argument("--seed", type=int, default=0, help="seed of samples and of the halves")
    evaluate.add_argument("--json", action="store_true", help="print the result as JSON")
    out_flag(evaluate, "folder for evaluation.json and pictures; default: print only")


def _add_preview_and_ops(commands: _Commands) -> None:
    preview = commands.add(
        "preview",
        policy_commands.preview,
        help_text="draw a policy's pseudo videos",
        example="autopv preview --policy policy.json --data elpv --out preview.png",
    )
    preview.add_argument("--policy", required=True, type=Path, metavar="FILE", help="policy JSON")
    data_flags(preview)
    preview.add_argument("--seed", type=int, default=0, help="seed of the corruption")
    preview.add_argument("-n", type=_positive, default=6, metavar="N", help="number of images, one row each")
    preview.add_argument(
        "--order", type=_positive, metavar="K", help="another Markov order, 1 to frames - 1; default: the policy's"
    )
    preview.add_argument(
        "--randomness", choices=("fresh", "shared"), help="other randomness (shared sets the order); default: likewise"
    )
    out_flag(preview, "picture to write: .png (frames left to right), or animated .gif or .webp", required=True)

    ops = commands.add(
        "ops", policy_commands.ops, help_text="list the corruptions a policy can use", example="autopv ops erase"
    )
    ops.add_argument("name", nargs="?", metavar="OP", help="tell all about this one")


def _add_policy(commands: _Commands) -> None:
    policy = commands.add(
        "policy", None, help_text="check, show, compare or profile policy files", example="autopv policy show FILE"
    )
    actions = _Commands(policy, dest="action")
    validate = actions.add(
        "validate",
        policy_commands.validate,
        help_text="check a policy file",
        example="autopv policy validate policy.json",
    )
    show = actions.add(
        "show",
        policy_commands.show,
        help_text="print a policy's canonical form",
        example="autopv policy show policy.json",
    )
    for parser in (validate, show):
        parser.add_argument("file", type=Path, metavar="FILE", help="policy JSON")
    diff = actions.add(
        "diff",
        policy_commands.diff,
        help_text="print what differs between two policies",
        example="autopv policy diff policy.json best_found.json",
    )
    for name in ("first", "second"):
        diff.add_argument(name, type=Path, metavar=name.upper(), help="policy JSON")
    actions.add(
        "schema",
        policy_commands.schema,
        help_text="print the JSON schema of policy files",
        example="autopv policy schema > policy.schema.json",
    )
    profile = actions.add(
        "profile",
        policy_commands.profile,
        help_text="measure what each frame of a policy's videos tells about the image",
        example="autopv policy profile policy.json --data elpv --out profile.png",
    )
    profile.add_argument("file", type=Path, metavar="FILE", help="policy JSON")
    data_flags(profile)
    profile.add_argument("--seed", type=int, default=0, help="seed of the corruption and of the choice of images")
    profile.add_argument("-n", type=_positive, default=128, metavar="N", help="number of images, at most")
    profile.add_argument("--no-features", action="store_true", help="leave the feature distance out: faster")
    profile.add_argument("--json", action="store_true", help="print the numbers as JSON")
    out_flag(profile, "PNG file to draw into; default: print only")
