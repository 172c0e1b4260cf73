"""More budget or more seeds for a run that exists: what `autopv resume` adds before it goes on."""

from dataclasses import dataclass

from autopv.errors import BudgetError, RunFolderError
from autopv.search.budget import Budget, rounded_up
from autopv.search.conclusion import NUM_SEARCHED_ARMS, stored_arms, verified
from autopv.search.ledger import Ledger
from autopv.search.planning import affordable_runs
from autopv.search.run_folder import RunSettings
from autopv.search.spending import SAFETY, Speed
from autopv.search.study import SearchStudy
from autopv.verify.blocks import complete_blocks, fresh_seeds

# With a time budget, what is left after the blocks asked for goes into more of them, up to so many.
MOST_BLOCKS = 20


@dataclass(frozen=True, kw_only=True)
class Extension:
    """What to add to a run. budget: such as "+16gpu-h". more_seeds: fresh seeds per arm beyond those verified."""

    budget: str | None = None
    more_seeds: int | None = None


def current_budget(ledger: Ledger, settings: RunSettings) -> Budget:
    """The budget with all that was added to it."""
    return Budget.parse(str(ledger.get_state("budget") or settings.budget))


def num_reserved(ledger: Ledger, settings: RunSettings) -> int:
    """Verification runs that the search keeps budget for."""
    kept = ledger.get_state("num_reserved")
    return kept if isinstance(kept, int) else settings.num_reserved


def num_blocks(ledger: Ledger, settings: RunSettings) -> int:
    """The most blocks the verification may run, those that have ended included."""
    wanted = ledger.get_state("num_blocks")
    if isinstance(wanted, int):
        return wanted
    limited = current_budget(ledger, settings).device_s is not None
    return max(settings.num_seeds, MOST_BLOCKS) if limited else settings.num_seeds


def extend(
    extension: Extension,
    *,
    ledger: Ledger,
    settings: RunSettings,
    study: SearchStudy,
    speed: Speed,
    num_controls: int,
) -> None:
    """Writes down what is added, all of it or nothing; the next launch works with it.

    More budget reopens the search, with the arms verified so far and the best of all trials to be verified; more seeds
    only verify the arms there are.

    Raises:
        BudgetError: the budget cannot be added, or does not pay for the seeds.
        RunFolderError: more seeds are asked for while the search is not over.
    """
    budget = current_budget(ledger, settings)
    if extension.budget is not None:
        budget = budget.extended(extension.budget)
    item_s = speed.item_s(flops=settings.trial_flops, num_looks=1) * SAFETY
    left_s = None if budget.device_s is None else budget.device_s - ledger.spent_s()
    states: dict[str, object] = {"budget": str(budget)}
    if extension.more_seeds is not None:
        states |= _more_seeds(extension.more_seeds, ledger=ledger, budget=budget, left_s=left_s, item_s=item_s)
    elif extension.budget is not None:
        study.revive_unpaid()
        states["phase"] = "search"
        if left_s is None:
            # Every seed that was verified stays one, whatever the first launch asked for.
            states["num_blocks"] = num_blocks(ledger, settings)
        else:
            states["num_blocks"] = None
            missing = _missing_runs(ledger, settings, num_controls=num_controls)
            states["num_reserved"] = affordable_runs(missing, item_s=item_s, left_s=left_s)
    ledger.set_states(states)


def _more_seeds(more: int, *, ledger: Ledger, budget: Budget, left_s: float | None, item_s: float) -> dict[str, object]:
    if ledger.get_state("phase") not in ("verify", "done"):
        raise RunFolderError(
            "--more-seeds only verifies further, but this run is still searching; go on with it first, without it."
        )
    arms = [arm.name for arm in stored_arms(ledger)]
    have = len(complete_blocks(verified(ledger), arms=arms))
    needed_s = more * len(arms) * item_s
    if left_s is not None and needed_s > left_s:
        raise BudgetError(
            f"--more-seeds {more}: {more * len(arms)} trainings ({len(arms)} arms) take about "
            f"{rounded_up(needed_s, device=budget.device)}, but {max(0.0, left_s) / 60:.1f} {budget.device}-min are "
            f"left; add --budget +{rounded_up(needed_s - left_s, device=budget.device)}."
        )
    return {"phase": "verify", "num_blocks": have + more}


def _missing_runs(ledger: Ledger, settings: RunSettings, *, num_controls: int) -> list[int]:
    """For each seed that a verdict needs, the runs that a verification with new arms would still have to do."""
    known = len(stored_arms(ledger)) or num_controls
    ended: dict[int, int] = {}
    for run in ledger.verification():
        ended[run.seed] = ended.get(run.seed, 0) + 1
    seeds = fresh_seeds(settings.seed, num_seeds=max(settings.num_seeds, len(ended)))
    return [known + NUM_SEARCHED_ARMS - ended.get(seed, 0) for seed in seeds]
