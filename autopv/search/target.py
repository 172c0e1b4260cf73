"""The training that a search is for (`--train-for`), and policies to start from (`--warm-start`)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autopv.errors import BudgetError, InputError
from autopv.policy import Policy
from autopv.search.budget import Budget
from autopv.search.conclusion import known_floor
from autopv.search.ranking import expected_results
from autopv.search.run_folder import RunFolder
from autopv.search.study_file import read_records
from autopv.spaces import Space

MOST_GIVEN_SHARE = 0.1
"""Of the trials, for policies to start from: what they may cost where they do not help."""
_TRIAL = "trial"


def train_steps(text: str, *, device: str, step_s: float) -> int | None:
    """The length of the user's training in image-only steps; None for `trial`: as long as a trial, whatever that is.

    text: a number of steps, such as 5400 or 5400steps, or device time, such as 20gpu-h. step_s: device-seconds that
    one step takes on the budget's device. Raises: BudgetError for anything else, or time of another device.
    """
    if text == _TRIAL:
        return None
    number = text.removesuffix("steps")
    if number.isdigit():
        if int(number) < 1:
            raise BudgetError(f"--train-for: the training must have at least 1 step, but got {text!r}.")
        return int(number)
    try:
        time = Budget.parse(text)
    except BudgetError as error:
        raise BudgetError(
            f"--train-for must be `trial`, a number of steps such as 5400, or device time such as 20gpu-h, but got "
            f"{text!r}."
        ) from error
    if time.device_s is None or time.trials is not None:
        raise BudgetError(f"--train-for states one training, as steps or device time, but got {text!r}.")
    if time.device != device:
        raise BudgetError(
            f"--train-for {text}: the budget is in {device} time, and only the speed of that is measured; state the "
            "training in steps."
        )
    return max(1, math.floor(time.device_s / step_s))


@dataclass(frozen=True, kw_only=True)
class Given:
    """Policies to try first, by the name to call them; and why others are not, or not yet, tried."""

    policies: Mapping[str, Policy]
    left_out: Sequence[str]


def given_policies(sources: Sequence[str]) -> list[tuple[str, Policy]]:
    """The policies in these files and run folders, with where they come from: the best of each source first.

    A run folder gives every policy that it ran to the end, the one of which most is to be expected first.
    Raises: InputError naming the source that holds none; PolicyError, RunFolderError where one cannot be read.
    """
    rows = [_policies_in(Path(source)) for source in sources]
    longest = max((len(row) for row in rows), default=0)
    mixed = [(sources[i], row[rank]) for rank in range(longest) for i, row in enumerate(rows) if rank < len(row)]
    first: dict[str, tuple[str, Policy]] = {}
    for source, policy in mixed:
        first.setdefault(policy.digest, (source, policy))
    return list(first.values())


def chosen_policies(
    found: Sequence[tuple[str, Policy]],
    *,
    space: Space,
    has_masks: bool,
    max_frames: int | None,
    num_trials: int,
    controls: Sequence[Policy],
) -> Given:
    """Those that the data and the model can serve and no control is, as many as a tenth of the trials (one at least).

    space: what the search may vary; a policy outside of it is tried as well, but the sampler learns nothing from it.
    """
    room = max(1, math.floor(MOST_GIVEN_SHARE * num_trials))
    known = {policy.digest for policy in controls}
    policies: dict[str, Policy] = {}
    left_out, num_more = [], 0
    for source, policy in found:
        if policy.digest in known:
            continue
        if "masks" in policy.needs and not has_masks:
            left_out.append(f"{source}: {policy.describe()} needs defect masks, and the data has none")
        elif max_frames is not None and policy.num_frames > max_frames:
            left_out.append(f"{source}: {policy.describe()} has more than the model's {max_frames} frames")
        elif len(policies) == room:
            num_more += 1
        else:
            policies[f"given-{len(policies) + 1}"] = policy
    if num_more:
        left_out.append(f"{num_more} more: {room} are what a tenth of the trials has room for")
    outside = sum(not space.contains(policy) for policy in policies.values())
    if outside:
        left_out.append(f"{outside} of those tried lie outside the search space: the sampler learns nothing from them")
    return Given(policies=policies, left_out=left_out)


def _policies_in(source: Path) -> list[Policy]:
    if not source.exists():
        raise InputError(f"--warm-start {source}: there is no such policy file or run folder.")
    if source.is_dir():
        return _policies_of_run(source)
    policy = Policy.load(source)
    if policy.is_image_only:
        raise InputError(
            f"--warm-start {source} holds image-only training, which every search runs as it is; give best_found.json "
            "beside it, or the run folder."
        )
    return [policy]


def _policies_of_run(path: Path) -> list[Policy]:
    folder = RunFolder.open(path)
    records = read_records(folder.study)
    results = expected_results(records, floor=known_floor(folder, split="search"))
    policies = [result.record.policy for result in results]
    policies = [policy for policy in policies if not policy.is_image_only]
    if not policies:
        raise InputError(f"--warm-start {path}: this run has no trial yet that ran to its end.")
    return policies
