"""The driver's side of a launch: what Ray's searcher, scheduler, stopper and callback all turn to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autopv.search.events import EventLog
from autopv.search.ledger import Ledger
from autopv.search.run_folder import RunFolder
from autopv.search.spending import Spending
from autopv.search.work import Decision, Look, Outcome, WorkItem, WorkSource
from autopv.training.checkpoint import FILE_NAME

# Workers report every two seconds, or after a measurement.
_REPORT_GRACE_S = 3.0


@dataclass
class _Running:
    item: WorkItem
    granted_s: float
    looks: list[Look] = field(default_factory=list)
    failure: str | None = None
    decision: Decision = "goes on"
    reported: bool = False
    # What this launch's worker did itself, without what it took over from a checkpoint; in device-seconds.
    flops: float = 0.0
    training_s: float = 0.0
    evaluation_s: float = 0.0
    num_measured: int = 0


class Hooks:
    """Connects the work source with the ledger, the event log and what Ray reports."""

    def __init__(
        self,
        source: WorkSource,
        *,
        folder: RunFolder,
        ledger: Ledger,
        spending: Spending,
        events: EventLog,
        share: float = 1.0,
    ) -> None:
        """share: the part of a device that each item holds."""
        self._folder, self._share = folder, share
        self._source, self._ledger, self._spending, self._events = source, ledger, spending, events
        self._running: dict[str, _Running] = {}
        self._overdrawn_since_s: float | None = None

    def suggest(self, tune_id: str) -> WorkItem | None:
        item = self._source.next_item()
        if item is None:
            return None
        self._ledger.grant(item.key, phase=self._source.phase, share=self._share)
        self._spending.start(item)
        self._running[tune_id] = _Running(item, self._ledger.clock())
        self._events.emit(
            "item_started",
            phase=self._source.phase,
            key=item.key,
            label=item.label,
            seed=item.seed,
            continues=item.continues,
        )
        return item

    def exhausted(self) -> bool:
        return self._source.exhausted()

    def overdrawn(self) -> bool:
        """Whether the budget is spent: items end with their next report."""
        return self._spending.overdrawn()

    def overdue(self) -> bool:
        """Whether the budget has been spent for longer than a worker takes to report."""
        if not self.overdrawn():
            self._overdrawn_since_s = None
            return False
        if self._overdrawn_since_s is None:
            self._overdrawn_since_s = self._ledger.clock()
        return self._ledger.clock() - self._overdrawn_since_s > _REPORT_GRACE_S

    def account(self, tune_id: str, result: Mapping[str, Any]) -> None:
        """Writes down what the worker did since its last report."""
        running = self._running.get(tune_id)
        if running is None:
            return
        key, flops, flops_done = running.item.key, result["flops"], result["flops_done"]
        rendering_s = result["rendering_s"] * self._share
        training_s = result["training_s"] * self._share - rendering_s
        evaluation_s = result["evaluation_s"] * self._share
        startup_s = 0.0
        if not running.reported:
            held_s = (self._ledger.clock() - running.granted_s) * self._share
            startup_s = max(0.0, held_s - training_s - rendering_s - evaluation_s)
            running.reported = True
        again = self._ledger.reach(key, start_flops=flops - flops_done, end_flops=flops)
        self._ledger.record_usage(
            key,
            training_s=(1 - again) * training_s,
            rendering_s=(1 - again) * rendering_s,
            evaluation_s=evaluation_s,
            startup_s=startup_s,
            rework_s=again * (training_s + rendering_s),
        )
        running.flops += flops_done
        running.training_s += training_s + rendering_s
        running.evaluation_s += evaluation_s
        running.num_measured += evaluation_s > 0
        self._spending.follow(
            key,
            flops=flops,
            num_looks=len(running.looks) + (result.get("fraction") is not None),
            device_s=training_s + rendering_s,
            flops_done=flops_done,
        )

    def on_result(self, tune_id: str, result: Mapping[str, Any]) -> bool:
        """Takes one report of a worker; returns whether its item goes on."""
        running = self._running.get(tune_id)
        if running is None:
            return False
        item = running.item
        if result.get("failure"):
            running.failure = result["failure"]
            return False
        if result.get("fraction") is None:
            self._events.emit(
                "progress",
                key=item.key,
                label=item.label,
                progress=round(result["progress"], 4),
                spent_s=round(self._ledger.spent_s(), 1),
            )
            return True
        look = Look(
            fraction=result["fraction"], distance=result["distance"], steps=result["steps"], flops=result["flops"]
        )
        running.looks.append(look)
        running.decision = self._source.judge(item, look)
        goes_on = running.decision == "goes on"
        self._events.emit(
            "look",
            phase=self._source.phase,
            key=item.key,
            label=item.label,
            fraction=look.fraction,
            distance=look.distance,
            steps=look.steps,
            goes_on=goes_on,
            spent_s=round(self._ledger.spent_s(), 1),
        )
        return goes_on

    def on_end(self, tune_id: str, *, error: str | None) -> None:
        running = self._running.pop(tune_id, None)
        if running is None:
            return
        item, look = running.item, running.looks[-1] if running.looks else None
        failure = error or running.failure
        if failure is not None:
            outcome = Outcome(status="failed", look=look, failure=failure)
        elif look is not None and look.fraction >= item.rungs[-1]:
            outcome = Outcome(status="complete", look=look)
        elif running.decision == "stopped":
            outcome = Outcome(status="stopped", look=look)
        else:
            outcome = Outcome(status="unpaid", look=look, failure="the budget was spent before this run could end")
        self._source.finish(item, outcome)
        if outcome.status == "stopped":  # nothing will sample from it or go on with it
            (self._folder.item(item.key) / FILE_NAME).unlink(missing_ok=True)
        self._ledger.release(item.key)
        self._spending.end(item.key)
        self._spending.learn(
            item,
            training_s=running.training_s,
            flops=running.flops,
            evaluation_s=running.evaluation_s,
            num_looks=running.num_measured,
        )
        self._events.emit(
            "item_ended",
            phase=self._source.phase,
            key=item.key,
            label=item.label,
            seed=item.seed,
            status=outcome.status,
            failure=outcome.failure,
            distance=None if look is None else look.distance,
            spent_s=round(self._ledger.spent_s(), 1),
        )

    def on_recover(self, tune_id: str) -> None:
        running = self._running.get(tune_id)
        if running is not None:
            self._events.emit("worker_lost", key=running.item.key, label=running.item.label)

    def beat(self) -> None:
        self._ledger.beat()

    def abandon(self) -> bool:
        """Ends the charges of items that Ray left behind; returns whether there are any to be gone on with.

        With the budget spent there is nothing to go on with: they end here.
        """
        if self.overdrawn():
            for tune_id in list(self._running):
                self.on_end(tune_id, error=None)
        left = bool(self._running)
        for running in self._running.values():
            self._ledger.release(running.item.key)
            self._spending.end(running.item.key)
        self._running.clear()
        return left
