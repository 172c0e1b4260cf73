"""The driver's side of a launch: what Ray's searcher, scheduler, stopper and callback all turn to."""

import math
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import autopv.errors
from autopv.policy import Policy
from autopv.search.events import EventLog
from autopv.search.ledger import Ledger
from autopv.search.losses import MOST_LOSSES, Losses, cause_of
from autopv.search.run_folder import RunFolder
from autopv.search.spending import Spending
from autopv.search.watchdog import DRIVER_GRACE_S, STARTING_S, take_trace
from autopv.search.work import Decision, Look, Outcome, WorkItem, WorkSource
from autopv.training.checkpoint import FILE_NAME

# Workers report every two seconds, or after a measurement.
_REPORT_GRACE_S = 3.0
# A longer pause between two beats was the driver's own (it was stopped by Ctrl-Z, say), no silence of the workers.
_LONGEST_BEAT_S = 5.0
_SPENT = "the budget was spent before this run could end"
_NOT_HELD = "the budget no longer holds the rest of this run beside what is kept back for the verification"


class Held:
    """A context in which an exception is held back in `error`, so that Ray cannot wrap, swallow or retry it."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False
        self.error = self.error or error
        return True


@dataclass
class _Running:
    item: WorkItem
    phase: str
    # Since when a device is charged for it, if it is.
    charged_since_s: float | None
    progress: float = 0.0
    # How long its worker has not reported, whether it ever has, and whether it was ended for its silence.
    silent_s: float = 0.0
    reported: bool = False
    ended: bool = False
    looks: list[Look] = field(default_factory=list)
    failure: str | None = None
    decision: Decision = "goes on"
    # What this launch's worker did itself, without what it took over from a checkpoint; in device-seconds.
    flops: float = 0.0
    training_s: float = 0.0
    evaluation_s: float = 0.0
    num_measured: int = 0


class Hooks:
    """Connects the work source with the ledger, the event log and what Ray reports.

    share: the part of a device that each item holds. silence_s: a worker that does not report for so long is hung.
    held: what went wrong in here while Ray called; everything ends then. made_progress: whether any worker reported.
    """

    def __init__(
        self,
        source: WorkSource,
        *,
        folder: RunFolder,
        ledger: Ledger,
        spending: Spending,
        events: EventLog,
        share: float = 1.0,
        silence_s: float = float("inf"),
    ) -> None:
        self._folder, self._share = folder, share
        self._source, self._ledger, self._spending, self._events = source, ledger, spending, events
        self._silence_s = silence_s
        self._losses = Losses(ledger)
        self._running: dict[str, _Running] = {}
        self._lost: deque[WorkItem] = deque()
        self._overdrawn_since_s: float | None = None
        self._overdue = False
        self._beat_s = time.monotonic()
        self.held = Held()
        self.made_progress = False

    def suggest(self, tune_id: str) -> WorkItem | None:
        """The next item to start; first of all those that lost their worker."""
        again = bool(self._lost)
        item = self._lost.popleft() if again else self._source.next_item()
        if item is None:
            return None
        # One that lost its worker may wait for a device, on a cluster that lost some: it is charged once it holds one.
        self._running[tune_id] = running = _Running(item, phase=self._source.phase, charged_since_s=None)
        if not again:
            self._charge(running)
        self._spending.start(item)
        self._events.emit(
            "item_started",
            phase=running.phase,
            key=item.key,
            label=item.label,
            seed=item.seed,
            continues=item.continues,
            policy=Policy.from_dict(item.policy, where=item.key).describe(),
        )
        return item

    def exhausted(self) -> bool:
        return not self._lost and self._source.exhausted()

    def overdrawn(self) -> bool:
        """Whether the budget is spent: items end with their next report."""
        return self._spending.overdrawn()

    def must_end(self) -> bool:
        """Whether everything must end at once: something went wrong here, or workers did not end with the budget."""
        return self.held.error is not None or self._overdue

    def account(self, tune_id: str, result: Mapping[str, Any]) -> None:
        """Writes down what the worker did since its last report."""
        running = self._running.get(tune_id)
        if running is None:
            return
        self.made_progress = True
        running.silent_s, running.progress = 0.0, result["progress"]
        key, flops, flops_done = running.item.key, result["flops"], result["flops_done"]
        rendering_s = min(result["rendering_s"], result["training_s"]) * self._share
        training_s = result["training_s"] * self._share - rendering_s
        evaluation_s = result["evaluation_s"] * self._share
        startup_s = 0.0
        if not running.reported and running.charged_since_s is not None:
            held_s = (self._ledger.clock() - running.charged_since_s) * self._share
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
        if result.get("halt"):
            name, message = result["halt"]
            raise getattr(autopv.errors, name)(message)
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
        if not math.isfinite(result["distance"]):  # a metric of somebody's own, say, that returns what it should raise
            running.failure = f"the measured distance is not finite: {result['distance']}"
            return False
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

    def on_end(self, tune_id: str, *, failure: str | None = None) -> None:
        """Takes the end of an item, with the reason if it failed."""
        running = self._running.pop(tune_id, None)
        if running is None:
            return
        item, look = running.item, running.looks[-1] if running.looks else None
        failure = failure or running.failure
        if failure is not None:
            outcome = Outcome(status="failed", look=look, failure=failure)
        elif look is not None and look.fraction >= item.rungs[-1]:
            outcome = Outcome(status="complete", look=look)
        elif running.decision == "stopped":
            outcome = Outcome(status="stopped", look=look)
        else:
            reason = _NOT_HELD if running.decision == "unpaid" else _SPENT
            outcome = Outcome(status="unpaid", look=look, failure=reason)
        self._source.finish(item, outcome)
        if outcome.status == "stopped" and not item.may_go_on:  # nothing will sample from it or go on with it
            (self._folder.item(item.key) / FILE_NAME).unlink(missing_ok=True)
        self._release(item)
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

    def on_loss(self, tune_id: str, error: BaseException | None) -> None:
        """Takes the loss of an item's worker: the item is handed out again, or ends as failed if it loses too many.

        With the budget spent it ends as unpaid.
        """
        running = self._running.get(tune_id)
        if running is None:
            return
        if self.overdrawn():  # nothing would go on with it; it may have been killed for that
            self.on_end(tune_id)
            return
        item, cause = running.item, cause_of(error, hung=self._hung(running))
        count = self._losses.record(item.key, progress=running.progress)
        goes_on = count <= MOST_LOSSES
        self._events.emit("worker_lost", key=item.key, label=item.label, reason=cause, goes_on=goes_on)
        if not goes_on:
            self.on_end(tune_id, failure=f"lost its worker {count} times at about the same point: {cause}")
            return
        del self._running[tune_id]
        self._release(item)
        self._lost.append(item)

    def beat(self, workers: Collection[str] | None = None) -> list[str]:
        """Keeps the ledger's heart beating; returns the items whose workers must be killed: those that have hung.

        With the budget spent, all that had the time to report and did not: a worker that is starting hears nothing.

        workers: the items for which a worker holds a device (or is being started on one) now.
        """
        now = time.monotonic()
        passed_s, self._beat_s = min(now - self._beat_s, _LONGEST_BEAT_S), now
        killed = []
        self._overdue = self._overdue or self._is_overdue()
        for tune_id, running in self._running.items():
            if workers is None or tune_id not in workers:
                continue
            if running.charged_since_s is None:
                self._charge(running)
            running.silent_s += passed_s
            limit_s = self._silence_s + DRIVER_GRACE_S + (0.0 if running.reported else STARTING_S)
            if running.silent_s > limit_s and not running.ended:
                running.ended = True
                killed.append(tune_id)
            elif self._overdue:
                killed.append(tune_id)
        self._ledger.beat()
        return killed

    def abandon(self) -> bool:
        """Ends the charges of items that Ray left behind; returns whether there are any to be gone on with.

        With the budget spent there is nothing to go on with: they end here.
        """
        for item in self._lost:
            self._running[item.key] = _Running(item, phase=self._source.phase, charged_since_s=None)
        self._lost.clear()
        if self.overdrawn():
            for tune_id in list(self._running):
                self.on_end(tune_id)
        left = bool(self._running)
        for running in self._running.values():
            self._release(running.item)
        self._running.clear()
        return left

    def _is_overdue(self) -> bool:
        """Whether the budget has been spent for longer than a worker takes to report."""
        if not self.overdrawn():
            self._overdrawn_since_s = None
            return False
        if self._overdrawn_since_s is None:
            self._overdrawn_since_s = self._ledger.clock()
        return self._ledger.clock() - self._overdrawn_since_s > _REPORT_GRACE_S

    def _charge(self, running: _Running) -> None:
        self._ledger.grant(running.item.key, phase=running.phase, share=self._share)
        running.charged_since_s = self._ledger.clock()

    def _release(self, item: WorkItem) -> None:
        self._ledger.release(item.key)
        self._spending.end(item.key)

    def _hung(self, running: _Running) -> str | None:
        """What is known of a worker that was ended for its silence; None if it was not."""
        trace = take_trace(self._folder.item(running.item.key))
        if trace is not None:
            return f"it hung: no report for {self._silence_s:.0f} s; where, says {trace.relative_to(self._folder.path)}"
        return f"it hung: no report for {running.silent_s:.0f} s" if running.ended else None
