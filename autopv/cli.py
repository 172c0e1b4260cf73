"""The command line: parsing and printing only. Heavy imports wait until a command runs, so that help is instant."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from autopv import __version__
from autopv.errors import AutopvError, InputError

_BAD_INPUT = 2
_INTERRUPTED = 128


class _Terminated(KeyboardInterrupt):
    """SIGTERM: ends like Ctrl-C, with its own exit code."""


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_BAD_INPUT, f"autopv: {message} (see `{self.prog} --help`)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 success, 1 failed run, 2 bad input, 130 or 143 interrupted."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code: int = arguments.run(arguments)
    except AutopvError as error:
        print(f"autopv: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        number = signal.SIGTERM if isinstance(interrupt, _Terminated) or _terminated else signal.SIGINT
        resume = _resume_command(arguments)
        print(f"\nautopv: interrupted.{' To go on: ' + resume if resume else ''}", file=sys.stderr)
        return _INTERRUPTED + number
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


_terminated: list[int] = []


def _terminate(number: int, _: object) -> None:
    """Ends like Ctrl-C does, so that Ray and the ledger are closed in order."""
    _terminated.append(number)
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.default_int_handler):
        os.kill(os.getpid(), signal.SIGINT)  # Ray Tune stops on this one
        return
    raise _Terminated


def _resume_command(arguments: argparse.Namespace) -> str | None:
    if (
        arguments.command in ("search", "resume")
        and arguments.out is not None
        and (arguments.out / "run.json").exists()
    ):
        return f"autopv resume {arguments.out}"
    if arguments.command == "train":
        return "the same command with --resume"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="autopv", description="Finds the pseudo-video policy that improves an image generator on your images."
    )
    parser.add_argument("--version", action="version", version=f"autopv {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], *, help_text: str, example: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=help_text,
            description=f"{help_text[0].upper()}{help_text[1:]}.",
            epilog=f"Example: {example}",
            formatter_class=_Help,
        )
        sub.set_defaults(run=run, command=name)
        return sub

    search = command(
        "search",
        _search,
        help_text="find a policy within a budget, verify it, and train with it",
        example="autopv search --data elpv --budget 10cpu-min",
    )
    _data_flags(search)
    _model_flags(search)
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
        help="search space: stage1_noise, stage2_expressive, or a .toml file",
    )
    search.add_argument(
        "--seeds", type=_positive, default=3, metavar="N", help="fresh seeds per arm in the verification"
    )
    search.add_argument(
        "--workers", type=_positive, metavar="N", help="trials at a time, one device each; default: all cores (or GPUs)"
    )
    search.add_argument(
        "--trial-steps",
        type=_positive,
        metavar="N",
        help="image-only steps that a trial's compute pays for; default: chosen from the budget",
    )
    _out_flag(search, "run folder to make; default: runs/DATE-TIME")

    resume = command(
        "resume", _resume, help_text="go on with an interrupted run", example="autopv resume runs/20261122-1200"
    )
    resume.add_argument("out", type=Path, metavar="RUN_DIR", help="run folder")
    resume.add_argument("--json", action="store_true", help="print the result as JSON")

    status = command("status", _status, help_text="show where a run stands", example="autopv status runs/20261122-1200")
    status.add_argument("out", type=Path, metavar="RUN_DIR", help="run folder")

    train = command(
        "train",
        _train,
        help_text="train a model with a policy, with checkpoints",
        example="autopv train --policy policy.json --data elpv --out model",
    )
    train.add_argument(
        "--policy", required=True, type=Path, metavar="FILE", help="policy JSON, e.g. a run folder's policy.json"
    )
    _data_flags(train)
    _model_flags(train)
    train.add_argument(
        "--steps",
        type=_positive,
        default=4800,
        metavar="N",
        help="image-only steps that the training's compute pays for",
    )
    train.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train")
    train.add_argument("--resume", action="store_true", help="go on with the training in --out")
    _out_flag(train, "folder for the checkpoint", required=True)

    sample = command(
        "sample",
        _sample,
        help_text="sample images from a checkpoint",
        example="autopv sample --checkpoint model -n 64 --out samples",
    )
    sample.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder of a checkpoint (a run's model/, or `train --out`)",
    )
    sample.add_argument("-n", type=_positive, default=64, metavar="N", help="number of images")
    sample.add_argument("--seed", type=int, default=0, help="seed of the samples")
    sample.add_argument("--temperature", type=float, default=1.0, help="below 1: fewer oddities, less variety")
    _out_flag(sample, "folder for the PNG files", required=True)

    preview = command(
        "preview",
        _preview,
        help_text="draw a policy's pseudo videos",
        example="autopv preview --policy policy.json --data elpv --out preview.png",
    )
    preview.add_argument("--policy", required=True, type=Path, metavar="FILE", help="policy JSON")
    _data_flags(preview)
    preview.add_argument("--seed", type=int, default=0, help="seed of the corruption")
    preview.add_argument("-n", type=_positive, default=6, metavar="N", help="number of images, one row each")
    _out_flag(preview, "PNG file to write", required=True)

    policy = command(
        "policy", _policy, help_text="check or show policy files", example="autopv policy validate policy.json"
    )
    policy.add_argument(
        "action", choices=("validate", "show"), help="validate: check the file; show: its canonical form"
    )
    policy.add_argument("file", type=Path, help="policy JSON")

    command(
        "doctor",
        _doctor,
        help_text="say what this machine offers and what is missing for what",
        example="autopv doctor",
    )
    return parser


def _data_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", required=True, metavar="D", help="folder of images, .npz or .npy array, or a demo name (elpv)"
    )
    parser.add_argument(
        "--size", type=_positive, metavar="PX", help="side that images are resized to; default: the preset's"
    )
    parser.add_argument("--channels", type=int, choices=(1, 3), help="1 grey, 3 colour; default: what the images have")
    parser.add_argument(
        "--group-by", metavar="REGEX", help="part of the file name that names the object; its images stay in one split"
    )
    parser.add_argument("--strict", action="store_true", help="refuse data with broken images instead of skipping them")


def _model_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="hvae", metavar="M", help="generator family")
    parser.add_argument("--preset", default="tiny", metavar="P", help="size of the model: tiny, small or base")
    parser.add_argument("--metric", default="fd_lite0", metavar="M", help="last-frame distance")
    parser.add_argument("--seed", type=int, default=0, help="seed of splits, proposals and training")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _common(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `_data_flags`, `_model_flags` and `_out_flag` were given, under the names of the requests."""
    names = ("data", "channels", "group_by", "strict", "model", "preset", "metric", "seed", "out")
    return {name: getattr(arguments, name) for name in names} | {"size_px": arguments.size}


def _out_flag(parser: argparse.ArgumentParser, help_text: str, *, required: bool = False) -> None:
    parser.add_argument("--out", type=Path, required=required, metavar="PATH", help=help_text)


def _search(arguments: argparse.Namespace) -> int:
    from autopv.search.budget import Budget

    budget = Budget.parse(arguments.budget)  # before the slow imports: a typo is answered at once
    from autopv.report.progress import ProgressLines
    from autopv.search.job import SearchRequest, start_job

    if arguments.out is None:
        arguments.out = Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    request = SearchRequest(
        **_common(arguments),
        budget=budget,
        space=arguments.space,
        num_seeds=arguments.seeds,
        num_workers=arguments.workers,
        trial_steps=arguments.trial_steps,
    )
    start_job(request, listener=ProgressLines())
    return _end_of_run(arguments)


def _resume(arguments: argparse.Namespace) -> int:
    from autopv.report.progress import ProgressLines
    from autopv.search.budget import Budget
    from autopv.search.job import resume_job
    from autopv.search.run_folder import RunFolder

    settings = RunFolder.open(arguments.out).settings()
    resume_job(arguments.out, listener=ProgressLines(Budget.parse(settings.budget)))
    return _end_of_run(arguments)


def _end_of_run(arguments: argparse.Namespace) -> int:
    from autopv.report.pictures import write_run_pictures
    from autopv.report.summary import read_result, summary_text
    from autopv.search.run_folder import RunFolder

    folder = RunFolder.open(arguments.out)
    write_run_pictures(folder)
    result = read_result(folder)
    print(json.dumps(result, indent=2) if arguments.json else "\n" + summary_text(result, folder=arguments.out))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from autopv.report.summary import status_text
    from autopv.search.run_folder import RunFolder

    print(status_text(RunFolder.open(arguments.out)))
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from autopv.policy import Policy
    from autopv.report.progress import training_lines
    from autopv.training.full import TrainRequest, train_fully

    policy = Policy.load(arguments.policy)
    request = TrainRequest(
        policy=policy,
        **_common(arguments),
        steps=arguments.steps,
        device=arguments.device,
        resume=arguments.resume,
    )
    result = train_fully(request, on_progress=training_lines(f"Training with {policy.describe()}"))
    if arguments.json:
        print(json.dumps(vars(result), indent=2))
    else:
        print(
            f"{arguments.metric} {result.distance:.1f} on the search split (n = {result.num_images}), "
            f"floor {result.floor:.1f}, excess {result.distance - result.floor:.1f}; "
            f"{result.steps} steps in {result.took_s:.0f} s. Checkpoint in {arguments.out}"
        )
    return 0


def _sample(arguments: argparse.Namespace) -> int:
    from autopv.report.pictures import write_png_folder
    from autopv.training.checkpoint import load_generator
    from autopv.training.measure import sample_images

    if arguments.temperature < 0:
        raise InputError(f"--temperature must be at least 0, but got {arguments.temperature}.")
    if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        raise InputError(f"--out {arguments.out} is not empty and nothing is overwritten: choose another folder.")
    model, info = load_generator(arguments.checkpoint)
    started_s = time.monotonic()
    images_NCHW = sample_images(model, num_images=arguments.n, seed=arguments.seed, temperature=arguments.temperature)
    took_s = time.monotonic() - started_s
    write_png_folder(images_NCHW, arguments.out)
    print(
        f"{arguments.n} images of {info.size_px} px in {arguments.out} ({arguments.n / took_s:.0f} images/s); "
        f"policy {info.policy.describe()}"
    )
    return 0


def _preview(arguments: argparse.Namespace) -> int:
    from autopv.data.images import load_images
    from autopv.policy import Policy
    from autopv.report.pictures import write_preview

    policy = Policy.load(arguments.policy)
    if arguments.out.exists():
        raise InputError(f"--out {arguments.out} exists and nothing is overwritten: choose another name.")
    image_set = load_images(
        arguments.data,
        size_px=arguments.size or 64,
        channels=arguments.channels,
        group_by=arguments.group_by,
        strict=arguments.strict,
    )
    write_preview(policy, image_set.images_NCHW, arguments.out, num_images=arguments.n, seed=arguments.seed)
    print(f"{arguments.out}: {policy.describe()}")
    return 0


def _policy(arguments: argparse.Namespace) -> int:
    from autopv.policy import Policy

    policy = Policy.load(arguments.file)
    if arguments.action == "validate":
        print(f"{arguments.file}: valid; {policy.describe()}; digest {policy.short_digest}")
    else:
        print(json.dumps(policy.canonical().to_dict(), indent=2))
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from autopv.report.doctor import doctor_lines

    for line in doctor_lines():
        print(line)
    return 0


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
