"""A driver on virtual time: the real study, sources, spending, ledger and hooks; only Ray and the trainings are not.

`Driver.run` is Ray Tune's loop as far as autopv depends on it: ask for items while devices are free, take one report,
let the stopper, then the scheduler see it, and keep the heart beating.
"""

import copy
import hashlib
import heapq
import json
import shutil
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from world import Step, Worker, World

from autopv.search.budget import Budget
from autopv.search.conclusion import NUM_SEARCHED_ARMS, choose_arms, stored_arms
from autopv.search.events import EventLog
from autopv.search.extension import MOST_BLOCKS
from autopv.search.hooks import Hooks
from autopv.search.ledger import Ledger
from autopv.search.request import SearchRequest
from autopv.search.run_folder import RunFolder
from autopv.search.sources import JobSource, SearchSource, VerificationSource
from autopv.search.spending import Reserve, Speed, Spending
from autopv.search.study import SearchStudy
from autopv.spaces import Space
from autopv.verify.blocks import fresh_seeds
from autopv.verify.controls import default_controls, random_controls

RUNGS = (0.5, 1.0)
REPEAT_SHARE = SearchRequest.repeat_share
TRIAL_FLOPS = 1.0
_TICK_S = 1.0
# On the disk of the crash: SQLite's main file and what was written ahead of it. Its index is made anew.
_COPIED = ("study.db", "study.db-wal", "ledger.db", "ledger.db-wal", "events.jsonl")


class Driver:
    """One life of a driver: new objects on a folder, old or new. It is killed by being left alone."""

    def __init__(self, path: Path, world: World) -> None:
        setting = world.setting
        self.path, self.world, self.setting = path, world, setting
        self.folder = RunFolder(path)
        self.folder.trials.mkdir(parents=True, exist_ok=True)
        self.budget = Budget.parse(setting.budget)
        self.ledger = Ledger(self.folder.ledger, clock=world.clock)
        space = Space.load("stage2_expressive").for_data(has_masks=False)
        self._controls = (*default_controls(), *random_controls(space.random_policy, seed=setting.seed))
        self.study = SearchStudy(
            self.folder.study,
            space=space,
            controls=self._controls,
            seed=setting.seed,
            rungs=RUNGS,
            repeat_share=REPEAT_SHARE,
        )
        self.spending = Spending(
            budget=self.budget,
            ledger=self.ledger,
            speed=Speed(s_per_flop=setting.trial_s, look_s=setting.look_s, start_s=setting.item_start_s),
        )
        self.events = EventLog(self.folder.events)
        search = self._search() if self.ledger.get_state("phase") != "verify" else None
        self.source = JobSource(search, verify=self._verify)
        self.num_events = 0
        self.cost_s: dict[str, list[float]] = defaultdict(list)
        """CPU seconds of each call of the driver, by kind."""
        self.unused_s: dict[str, float] = defaultdict(float)
        """Device-seconds in which a device was free and no work was admissible, by phase."""
        self.phase_ends_s: dict[str, float] = {}
        self._workers = [Worker(world, device=number) for number in range(setting.num_devices)]
        self._queue: list[tuple[float, int, int, Step]] = []
        self._ids: dict[int, str] = {}
        self._num_steps = self._num_suggested = 0
        self._nothing_admissible = False

    def run(self, *, on_event: Callable[[], bool] = lambda: True) -> bool:
        """Whether the job came to its end; `on_event`, called after each report, ends this life by saying False."""
        while True:
            self.source.begin()
            if self.source.exhausted():
                self.ledger.set_state("phase", "done")
                return True
            self._hooks = Hooks(
                self.source, folder=self.folder, ledger=self.ledger, spending=self.spending, events=self.events
            )
            if not self._launch(on_event):
                return False
            assert not self._hooks.abandon(), "Ray left items behind that the budget still pays for"

    def fork(self, path: Path) -> World:
        """The world and the folder, copied as the disk holds them now: what a kill at this moment would leave."""
        path.mkdir(parents=True)
        for name in _COPIED:
            if (self.path / name).exists():
                shutil.copyfile(self.path / name, path / name)
        world = copy.deepcopy(self.world)
        world.held_s += self.setting.orphan_s * len(self._ids)
        world.now_s += self.setting.restart_s
        return world

    def _launch(self, on_event: Callable[[], bool]) -> bool:
        finished = False
        while True:
            finished = finished or not self._fill()
            with self._timed("beat"):
                self._hooks.beat(set(self._ids.values()))
            if not self._queue:
                if finished:
                    return True
                self._pass_to(self.world.now_s + _TICK_S)
            elif self._queue[0][0] > self.world.now_s + _TICK_S:
                self._pass_to(self.world.now_s + _TICK_S)
            else:
                ends_s, _, device, step = heapq.heappop(self._queue)
                self._pass_to(max(self.world.now_s, ends_s))
                self._workers[device].end(step)
                self._take(device, step)
                self.num_events += 1
                if not on_event():
                    return False
            if self._hooks.must_end():
                self._queue.clear()
                self._ids.clear()
                return True

    def _fill(self) -> bool:
        """Starts items while devices are free; returns whether the searcher will have more."""
        for device, worker in enumerate(self._workers):
            if device in self._ids:
                continue
            with self._timed("exhausted"):
                if self._hooks.exhausted():
                    self._nothing_admissible = True
                    return False
            tune_id = f"{self._num_suggested}"
            started_s = time.process_time()
            item = self._hooks.suggest(tune_id)
            if item is None:
                self._nothing_admissible = True
                return True
            self.cost_s["proposal"].append(time.process_time() - started_s)
            self._nothing_admissible = False
            self._num_suggested += 1
            self._ids[device] = tune_id
            worker.begin(item)
            self._pass_to(self.world.now_s + self.setting.proposal_s)
            self._go_on(device)
        return True

    def _take(self, device: int, step: Step) -> None:
        """Takes the end of a step as Ray does: the stopper sees a report first, then the scheduler."""
        tune_id = self._ids[device]
        if step.report is None:
            self._hooks.on_loss(tune_id, None)
            del self._ids[device]
            return
        self._pass_to(self.world.now_s + self.setting.report_s)
        is_look = step.report["fraction"] is not None
        with self._timed("look" if is_look else "report"):
            self._hooks.account(tune_id, step.report)
            stops = not is_look and self._hooks.overdrawn()
            goes_on = not stops and self._hooks.on_result(tune_id, step.report)
        if goes_on:
            self._go_on(device)
            return
        with self._timed("end"):
            self._hooks.on_end(tune_id)
        self.world.num_failed += step.report["failure"] is not None
        del self._ids[device]

    def _go_on(self, device: int) -> None:
        step = self._workers[device].step()
        self._num_steps += 1
        heapq.heappush(self._queue, (step.ends_s, self._num_steps, device, step))

    def _pass_to(self, now_s: float) -> None:
        """Lets time pass; what is held is held, and what is free and cannot be used is noted."""
        passed_s = now_s - self.world.now_s
        self.world.held_s += passed_s * len(self._ids)
        phase = self.source.phase
        if self._nothing_admissible:
            self.unused_s[phase] += passed_s * (len(self._workers) - len(self._ids))
        self.world.now_s = self.phase_ends_s[phase] = now_s

    @contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        """Notes the CPU time of a block."""
        started_s = time.process_time()
        yield
        self.cost_s[kind].append(time.process_time() - started_s)

    def _search(self) -> SearchSource:
        num_arms = len(self._controls) + NUM_SEARCHED_ARMS
        num_reserved = self.setting.num_seeds * num_arms if self.budget.device_s is not None else 0
        return SearchSource(
            self.study,
            folder=self.folder,
            budget=self.budget,
            spending=self.spending,
            flops=TRIAL_FLOPS,
            reserve=Reserve(flops=TRIAL_FLOPS, num_items=num_reserved),
        )

    def _verify(self) -> VerificationSource:
        """As `search/job.py` goes over to the verification."""
        if self.ledger.get_state("phase") != "verify":
            arms = [
                arm.to_dict() for arm in choose_arms(self.study.records(), floor=0.0, earlier=stored_arms(self.ledger))
            ]
            self.ledger.set_states({"arms": arms, "phase": "verify"})
        num_seeds = self.setting.num_seeds
        if self.budget.device_s is not None:
            num_seeds = max(num_seeds, MOST_BLOCKS)
        return VerificationSource(
            stored_arms(self.ledger),
            seeds=fresh_seeds(self.setting.seed, num_seeds=num_seeds),
            flops=TRIAL_FLOPS,
            ledger=self.ledger,
            spending=self.spending,
        )


def fingerprint(driver: Driver) -> str:
    """A hash of all that a run decided and charged: equal for equal runs."""
    trials = [
        (r.key, r.control, r.policy.digest, r.state, r.seed, r.distance, sorted(r.looks.items()), r.failure)
        for r in driver.study.records()
    ]
    with sqlite3.connect(driver.folder.ledger) as db:
        segments = db.execute("select phase, key, started, ended from segments order by id").fetchall()
    db.close()
    verified = [(v.arm, v.seed, v.distance, v.failure) for v in driver.ledger.verification()]
    return hashlib.sha256(json.dumps([trials, segments, verified]).encode()).hexdigest()
