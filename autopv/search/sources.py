"""The sources of work: the search proposes trials, the verification repeats arms on fresh seeds, a job is both."""

import math
from collections.abc import Callable, Sequence

from autopv.search.budget import Budget
from autopv.search.ledger import Ledger, VerificationResult
from autopv.search.run_folder import RunFolder
from autopv.search.spending import SAFETY, Reserve, Spending
from autopv.search.study import SearchStudy
from autopv.search.work import Decision, Look, Outcome, WorkItem
from autopv.verify.blocks import Arm

# A search that lets the best of its stopped trials go on spends this share of its budget on new ones first; where only
# trials are counted, it lets so many go on for each that was started.
PROMOTED_AFTER, _PROMOTED_SHARE = 0.6, 0.2


class SearchSource:
    """Trials while the budget holds them beside the reserve: interrupted ones, then controls, then proposals.

    stopping: one of study.STOPPING; with `top-k` the best of the stopped trials go on at the end.
    """

    phase = "search"

    def __init__(
        self,
        study: SearchStudy,
        *,
        folder: RunFolder,
        budget: Budget,
        spending: Spending,
        flops: float,
        reserve: Reserve,
        stopping: str = "halving",
    ) -> None:
        self._stopping = stopping
        self._study, self._folder, self._budget, self._spending = study, folder, budget, spending
        self._flops, self._reserve = flops, reserve
        self._interrupted: list[str] = []
        self._num_running = 0

    def begin(self) -> None:
        self._study.release_live()
        self._interrupted = list(self._study.interrupted())
        self._num_running = 0

    def next_item(self) -> WorkItem | None:
        if not self._admits():
            return None
        resume = self._interrupted.pop(0) if self._interrupted else None
        if resume is None and self._is_for_promoted() and not self._study.promote():
            return None
        self._num_running += 1
        item = self._study.propose(flops=self._flops, resume=resume)
        if item.continues is not None:
            self._folder.take_over(item.key, earlier=item.continues)
        return item

    def exhausted(self) -> bool:
        return self._num_running == 0 and not self._admits()

    def close(self) -> None:
        """Ends what was interrupted and can no longer be paid for: nothing stays running."""
        for key in self._interrupted:
            self._study.give_up(key, unpaid=True, failure="the budget no longer paid for the rest of this trial")
        self._interrupted.clear()

    def judge(self, item: WorkItem, look: Look) -> Decision:
        if not self._study.judge(item, look):
            return "stopped"
        return "goes on" if self._spending.fits_rest(item.key, reserve=self._reserve) else "unpaid"

    def finish(self, item: WorkItem, outcome: Outcome) -> None:
        self._num_running -= 1
        self._study.finish(item, outcome)

    def _admits(self) -> bool:
        if not self._interrupted and self._is_for_promoted():
            within = self._study.has_stopped and self._num_to_promote > 0
        else:
            within = bool(self._interrupted) or not self._is_full()
        cost_s = self._spending.speed.item_s(flops=self._flops, num_looks=self._study.num_rungs)
        return within and self._spending.fits(cost_s, reserve=self._reserve)

    def _is_full(self) -> bool:
        """Whether as many trials were started as the budget has."""
        return self._budget.trials is not None and self._study.num_trials >= self._budget.trials

    def _is_for_promoted(self) -> bool:
        """Whether the budget for new trials is used up, where the best of the stopped ones go on then."""
        if self._stopping != "top-k":
            return False
        return self._is_full() or self._spending.share_spent(reserve=self._reserve) >= PROMOTED_AFTER

    @property
    def _num_to_promote(self) -> float:
        """How many more stopped trials may go on; without a limit on time a share of all."""
        if self._budget.device_s is not None:
            return math.inf
        return math.ceil(_PROMOTED_SHARE * self._study.num_trials) - self._study.num_promoted


class VerificationSource:
    """Every arm once per fresh seed, block after block. A block starts only if the budget holds all of it.

    What an earlier launch left of a block is a block of its own: after an extension, the arms that are new.
    """

    phase = "verify"

    def __init__(
        self, arms: Sequence[Arm], *, seeds: Sequence[int], flops: float, ledger: Ledger, spending: Spending
    ) -> None:
        self._arms, self._seeds, self._flops = tuple(arms), tuple(seeds), flops
        self._ledger, self._spending = ledger, spending
        self._block: list[WorkItem] = []
        self._left: list[list[WorkItem]] = []
        self._num_running = 0

    def begin(self) -> None:
        ended = {(result.arm, result.seed) for result in self._ledger.verification()}
        blocks = [
            [self._item(arm, seed) for arm in self._arms if (arm.name, seed) not in ended] for seed in self._seeds
        ]
        self._left = [block for block in blocks if block]
        self._block = []
        self._num_running = 0

    def next_item(self) -> WorkItem | None:
        if not self._block:
            if not self._left or not self._admits(self._left[0]):
                return None
            self._block = self._left.pop(0)
        self._num_running += 1
        return self._block.pop(0)

    def exhausted(self) -> bool:
        return self._num_running == 0 and not self._block and not (self._left and self._admits(self._left[0]))

    def judge(self, item: WorkItem, look: Look) -> Decision:
        return "goes on" if look.fraction < item.rungs[-1] else "stopped"

    def finish(self, item: WorkItem, outcome: Outcome) -> None:
        self._num_running -= 1
        if outcome.status == "unpaid":  # its block stays incomplete; more budget can complete it
            self._block.clear()
            self._left.clear()
            return
        self._ledger.record_verification(
            VerificationResult(
                arm=item.label,
                seed=item.seed,
                failure=outcome.failure,
                checkpoint=item.key,
                distance=outcome.look.distance if outcome.status == "complete" and outcome.look else None,
            )
        )

    def _item(self, arm: Arm, seed: int) -> WorkItem:
        return WorkItem(
            key=f"verify-{arm.name}-{seed}",
            label=arm.name,
            policy=arm.policy.to_dict(),
            seed=seed,
            rungs=(1.0,),
            split="final",
            flops=self._flops,
        )

    def _admits(self, block: Sequence[WorkItem]) -> bool:
        cost_s = sum(self._spending.cost_s(item) for item in block)
        # The rest of a block that was begun had its margin then; without that rest, its other runs would be lost.
        begun = len(block) < len(self._arms)
        return self._spending.fits(cost_s, margin=1.0 if begun else SAFETY)


class JobSource:
    """The search, then the verification that `verify` sets up from what was found; on the same workers."""

    def __init__(self, search: SearchSource | None, *, verify: Callable[[], VerificationSource]) -> None:
        self._verify = verify
        self._active: SearchSource | VerificationSource = search or verify()

    @property
    def phase(self) -> str:
        return self._active.phase

    def begin(self) -> None:
        self._active.begin()

    def next_item(self) -> WorkItem | None:
        self._move_on()
        return self._active.next_item()

    def exhausted(self) -> bool:
        self._move_on()
        return self._active.exhausted()

    def judge(self, item: WorkItem, look: Look) -> Decision:
        return self._active.judge(item, look)

    def finish(self, item: WorkItem, outcome: Outcome) -> None:
        self._active.finish(item, outcome)

    def _move_on(self) -> None:
        """Goes over to the verification once the search has nothing running and nothing left to start."""
        if isinstance(self._active, SearchSource) and self._active.exhausted():
            self._active.close()
            self._active = self._verify()
            self._active.begin()
