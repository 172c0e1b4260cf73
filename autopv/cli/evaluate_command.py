"""The command that evaluates images."""

import argparse
import json
import sys
import time

from autopv.errors import InputError

_LINE_EVERY_S = 2.0


def evaluate(arguments: argparse.Namespace) -> int:
    if arguments.out is not None and arguments.out.exists():
        raise InputError(f"--out {arguments.out} exists and nothing is overwritten: choose another folder.")
    from autopv.evaluation.evaluate import EvaluateRequest
    from autopv.evaluation.evaluate import evaluate as run
    from autopv.report.evaluation_pictures import write_evaluation_pictures
    from autopv.report.evaluation_table import evaluation_text

    request = EvaluateRequest(
        reference=arguments.reference,
        generated=arguments.generated,
        against=tuple(arguments.against or ()),
        train=arguments.train,
        extractor=arguments.extractor,
        size_px=arguments.size,
        num_images=arguments.n,
        num_samples=arguments.samples,
        group_by=arguments.group_by,
        seed=arguments.seed,
        device=arguments.device,
        strict=arguments.strict,
    )
    evaluation = run(request, on_progress=_Lines())
    text = json.dumps(evaluation.record, indent=2)
    print(text if arguments.json else evaluation_text(evaluation.record))
    if arguments.out is not None:
        try:
            arguments.out.mkdir(parents=True)
            (arguments.out / "evaluation.json").write_text(text + "\n", encoding="utf-8")
            drawn = write_evaluation_pictures(evaluation, arguments.out)
        except OSError as error:
            raise InputError(f"--out {arguments.out} cannot be written: {error.strerror}.") from error
        for path in drawn:
            print(f"Drawn: {path}", file=sys.stderr)
    return 0


class _Lines:
    """Tells on stderr what is worked on and how far it is: what takes no time is not told."""

    def __init__(self) -> None:
        self._what = ""
        self._last_s = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if done == total or (what == self._what and now_s - self._last_s < _LINE_EVERY_S):
            return
        self._what, self._last_s = what, now_s
        print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
