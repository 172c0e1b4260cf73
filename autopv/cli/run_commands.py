"""The commands that search and train."""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def search(arguments: argparse.Namespace) -> int:
    from autopv.search.budget import Budget

    budget = Budget.parse(arguments.budget)  # before the slow imports: a typo is answered at once
    from autopv.report.narration import narration
    from autopv.search.job import start_job
    from autopv.search.request import SearchRequest

    if arguments.out is None:
        arguments.out = Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    request = SearchRequest(
        **_common(arguments),
        budget=budget,
        space=arguments.space,
        sampler=arguments.sampler,
        stopping=arguments.stopping,
        repeat_share=arguments.repeats,
        screen=arguments.screen,
        train_for=arguments.train_for,
        warm_start=tuple(arguments.warm_start or ()),
        **_plan(arguments),
        num_seeds=arguments.seeds,
        num_workers=arguments.workers,
        trials_per_gpu=arguments.trials_per_gpu,
        address=arguments.address,
        trial_steps=arguments.trial_steps,
    )
    with narration(as_json=arguments.json) as listener:
        start_job(request, listener=listener)
        result = _end_of_run(arguments.out, listener=listener)
    return _tell(result, arguments=arguments)


def resume(arguments: argparse.Namespace) -> int:
    from autopv.report.narration import narration
    from autopv.search.events import read_events
    from autopv.search.extension import Extension
    from autopv.search.job import resume_job
    from autopv.search.run_folder import RunFolder

    added = arguments.budget is not None or arguments.more_seeds is not None
    extension = Extension(budget=arguments.budget, more_seeds=arguments.more_seeds) if added else None
    log, now_s = RunFolder.open(arguments.out).events, time.time()
    with narration(as_json=arguments.json, earlier=lambda: read_events(log, before_s=now_s)) as listener:
        resume_job(arguments.out, extension=extension, listener=listener)
        result = _end_of_run(arguments.out, listener=listener)
    return _tell(result, arguments=arguments)


def _end_of_run(out: Path, *, listener: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
    """The result of a run that has just ended, told to the listener as the last event."""
    from autopv.report.pictures import write_run_pictures
    from autopv.report.summary import read_result
    from autopv.search.events import event_record
    from autopv.search.run_folder import RunFolder

    folder = RunFolder.open(out)
    write_run_pictures(folder)
    result = read_result(folder)
    listener(event_record("result", **result))
    return result


def _tell(result: Mapping[str, Any], *, arguments: argparse.Namespace) -> int:
    from autopv.report.summary import summary_text

    if not arguments.json:
        print("\n" + summary_text(result, folder=arguments.out))
    return 0


def status(arguments: argparse.Namespace) -> int:
    from autopv.report.summary import status_text
    from autopv.search.run_folder import RunFolder

    print(status_text(RunFolder.open(arguments.out)))
    return 0


def report(arguments: argparse.Namespace) -> int:
    from autopv.report.page import write_page
    from autopv.search.run_folder import RunFolder

    print(write_page(RunFolder.open(arguments.folder), out=arguments.out))
    return 0


def train(arguments: argparse.Namespace) -> int:
    from autopv.policy import Policy
    from autopv.report.training_lines import TrainingLines, training_text
    from autopv.training.full_request import TrainRequest

    is_alone = arguments.num_workers == 1 and arguments.address is None
    request = TrainRequest(
        policy=Policy.load(arguments.policy),
        **_common(arguments),
        steps=arguments.steps,
        device=arguments.device or _training_device(arguments.address),
        precision=arguments.precision,
        compiled=arguments.compile,
        **_plan(arguments),
        resume=arguments.resume,
        force=arguments.force,
        num_looks=arguments.looks,
        patience=arguments.patience,
        all_images=arguments.all_images,
        keep_every=arguments.keep_every,
    )
    with TrainingLines() as lines:
        if is_alone:
            from autopv.training.full import train_fully

            result = train_fully(request, listener=lines)
        else:
            from autopv.search.many_workers import train_with_workers

            result = train_with_workers(
                request, num_workers=arguments.num_workers, address=arguments.address, listener=lines
            )
    print(json.dumps(result.to_dict(), indent=2) if arguments.json else training_text(result, out=arguments.out))
    return 0


def _training_device(address: str | None) -> str:
    from autopv.training.fastest import default_device

    if address is None:
        return default_device()
    from autopv.search.ray_session import num_devices

    return "cuda" if num_devices(address, device="gpu") else "cpu"


def doctor(_: argparse.Namespace) -> int:
    from autopv.report.doctor import doctor_lines

    for line in doctor_lines():
        print(line)
    return 0


def _plan(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `plan_flags` were given."""
    return {name: getattr(arguments, name) for name in ("batch_size", "learning_rate", "kl_weight", "flips")}


def _common(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `_data_flags`, `_model_flags` and `_out_flag` were given, under the names of the requests."""
    from autopv.models.base import preset_names

    names = ("data", "channels", "group_by", "strict", "model", "classes", "metric", "seed", "out")
    # The smallest preset is called tiny in autopv's own families; others may call it what they like.
    preset = arguments.preset or preset_names(arguments.model)[0]
    return {name: getattr(arguments, name) for name in names} | {"preset": preset, "size_px": arguments.size}
