"""A full training by several workers, one device each, through Ray Train: on this machine, or on a cluster."""

import hashlib
import json
import logging
import math
import os
import pickle
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autopv.errors import AutopvError, CheckpointError, EndedAtOnce, InputError
from autopv.search.hooks import Held
from autopv.search.material import absolute_source
from autopv.search.processes import process
from autopv.search.ray_session import RESOURCE, RaySession, num_devices
from autopv.search.relay import Relay
from autopv.training.checkpoint import read_info
from autopv.training.full_request import TrainRequest, TrainResult
from autopv.training.interrupts import DeferredInterrupts
from autopv.training.listener import TrainingListener
from autopv.training.team import check_equal_parts

# Workers are started again this often in a row without anything having been saved in between.
_MOST_LOSSES = 3
# Measuring is the first worker's, and the others wait for it: longer than this it cannot take.
_LONGEST_WAIT_S = 6 * 3600
_LISTEN_EVERY_S = 0.2
# Workers on a cluster that have not begun by then may be waiting for others' work to end.
_PATIENCE_S = 60.0
# Under this name and namespace Ray Train looks for the actor that it shares with Ray Data.
_COORDINATOR = "AutoscalingCoordinator"
# Our word for a kind of device, and torch's.
_KIND = {"cpu": "cpu", "cuda": "gpu"}
_NAME = {"cpu": "core", "cuda": "GPU"}
# Read by Ray Train in this process, and by the controller and the workers that it starts.
_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # Workers stay in the folder that the driver is in.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # A process more; checkpoints come often enough for machines that are taken away.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A cluster may be busy, and a machine slow.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    # What is left of a group after a loss is not waited for.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
}


def train_with_workers(
    request: TrainRequest,
    *,
    num_workers: int,
    address: str | None = None,
    listener: TrainingListener | None = None,
) -> TrainResult:
    """`train_fully` by so many workers, each with a device of its own and an equal part of every batch.

    address: a Ray cluster that runs already (`auto` or host:port), where data, cache and `request.out` must be found
    under the same names by all its machines. After a worker is lost all start again from the last checkpoint.

    Raises:
        InputError: the request cannot be met, or there are not enough devices; nothing has been started then.
        KeyboardInterrupt: the user stopped it; all that was done is saved.
        EndedAtOnce: the user asked twice; what was trained since the last checkpoint is lost.
        AutopvError: whatever else `train_fully` raises; or workers were lost again and again.
    """
    request.check_out()
    check_equal_parts(request.plan.batch_size, num_workers=num_workers)
    _check_devices(request.device, num_workers=num_workers, address=address)
    request = replace(request, data=absolute_source(request.data), out=request.out.resolve())
    os.environ.update(_ENVIRONMENT)
    remains = Remains(request.out)
    session = RaySession(
        address=address, num_workers=num_workers, device=_KIND[request.device], share=1.0, ledger=remains
    )
    try:
        session.start()
        try:
            return _Launch(request, num_workers=num_workers, session=session, listener=listener).run()
        finally:
            session.stop()
    finally:
        remains.forget()


def _check_devices(device: str, *, num_workers: int, address: str | None) -> None:
    if address is not None:
        found, place = num_devices(address, device=_KIND[device]), f"the cluster at {address}"
    elif device == "cuda":
        found, place = torch.cuda.device_count(), "this machine"
    else:
        found, place = len(os.sched_getaffinity(0)), "this machine"
    if num_workers > found:
        name = _NAME[device]
        remedy = f"give --num-workers {found} or fewer" if found else "see `autopv doctor`"
        raise InputError(
            f"every worker needs a {name} of its own, but --num-workers {num_workers} is more than the {found} {name}s "
            f"of {place}: {remedy}{'' if address else ', or the --address of a Ray cluster'}"
        )


class _Launch:
    """One launch on a Ray that is up: what the first worker says is passed on until the training ends."""

    def __init__(
        self, request: TrainRequest, *, num_workers: int, session: RaySession, listener: TrainingListener | None
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._request, self._num_workers, self._session = request, num_workers, session
        self._listener = listener or TrainingListener()
        self._has_begun, self._num_losses = False, 0
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # On a Ray of our own it also stands in for an actor of Ray Train's that would ask clouds for machines: a
        # process less, and nobody waits for it.
        name = {"name": _COORDINATOR, "namespace": _COORDINATOR} if session.is_own else {}
        self._relay = ray.remote(Relay).options(num_cpus=0, scheduling_strategy=here, **name).remote()
        logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # what fails is told by the listener

    def run(self) -> TrainResult:
        """What the training came to."""
        while True:
            saved = self._num_saved()
            try:
                with DeferredInterrupts() as interrupts:
                    fit = self._watch(interrupts)
                    if fit.held.error is not None:
                        self._judge(fit.held.error, made_progress=self._num_saved() > saved)
                        continue
            except KeyboardInterrupt as interrupt:
                if self._session.at_once:
                    raise EndedAtOnce from interrupt
                raise
            if fit.result is None:
                raise KeyboardInterrupt  # by a signal that a worker heard and we did not
            return fit.result

    def _watch(self, interrupts: DeferredInterrupts) -> "_Fit":
        """The attempt, ended; a first interruption is passed on to the workers, which save, a second one ends all."""
        import ray

        fit, is_told = _Fit(self._trainer()), False
        self._has_begun, self._num_losses = False, 0
        patient_until_s = math.inf if self._session.is_own else time.monotonic() + _PATIENCE_S
        try:
            fit.start()
            while fit.is_alive():
                fit.join(_LISTEN_EVERY_S)
                self._pass_on()
                if not self._has_begun and time.monotonic() > patient_until_s:
                    patient_until_s = math.inf
                    self._listener.note("The workers have not begun yet: they wait for devices if the cluster is busy.")
                if interrupts.asked and not self._has_begun:
                    self._session.at_once = True  # nothing is there to be saved yet
                    return fit
                if interrupts.asked and not is_told:
                    is_told = True
                    ray.get(self._relay.ask_to_stop.remote())
                    self._listener.note("Stopping: what has been trained is being saved.")
            self._pass_on()
        except ray.exceptions.RayError as error:
            fit.held.error = fit.held.error or error
        except BaseException:
            self._session.at_once = True  # Ray is still waited for
            raise
        return fit

    def _pass_on(self) -> None:
        import ray

        for message in ray.get(self._relay.heard.remote()):
            name, arguments, named = pickle.loads(message)
            if name == "lost":
                self._has_begun = False
                self._num_losses += 1
                if self._num_losses <= _MOST_LOSSES:
                    self._tell_lost(arguments[0])
                continue
            self._has_begun = self._has_begun or name == "began"
            getattr(self._listener, name)(*arguments, **named)

    def _tell_lost(self, text: str) -> None:
        self._listener.note(f"{text}: all workers start again from the last checkpoint.")

    def _judge(self, error: Exception, *, made_progress: bool) -> None:
        """Returns if another attempt is worth it. Raises: what a worker raised, or AutopvError."""
        from ray.train import ControllerError, WorkerGroupError

        from autopv.search.train_adapters import loss_text

        if isinstance(error, ControllerError) and isinstance(error.controller_failure, AutopvError):
            raise error.controller_failure
        if isinstance(error, WorkerGroupError):
            lost = loss_text(error.worker_failures)
            if made_progress:
                self._tell_lost(lost)
                return
            what = f"{lost}, {_MOST_LOSSES + 1} times in a row with nothing saved between"
        else:
            what = (
                f"Ray Train broke down ({type(error).__name__}: {(str(error).strip() or '?').splitlines()[-1][:300]})"
            )
        stands = self._num_saved() >= 0
        raise AutopvError(
            f"{what}. "
            + (f"What was saved is in {self._request.out}: go on by --resume." if stands else "Nothing was saved.")
        ) from error

    def _trainer(self) -> Any:
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig

        from autopv.search.train_adapters import LeanTrainer, Losses
        from autopv.search.worker_part import Part, train_part

        device = self._request.device
        part = Part(self._request, self._relay, os.getcwd())
        return LeanTrainer(
            lambda: train_part(part),
            is_own_ray=self._session.is_own,
            torch_config=TorchConfig(
                # What all are told travels by gloo, gradients on GPUs by nccl.
                backend="cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
                timeout_s=_LONGEST_WAIT_S,
            ),
            scaling_config=ScalingConfig(
                num_workers=self._num_workers,
                use_gpu=device == "cuda",
                resources_per_worker={RESOURCE[_KIND[device]]: 1},
            ),
            run_config=RunConfig(
                name="training",
                storage_path=str(self._session.scratch),
                failure_config=FailureConfig(max_failures=_MOST_LOSSES),
                callbacks=[Losses(self._relay)],
                logging_config=LoggingConfig(log_level="CRITICAL"),
            ),
        )

    def _num_saved(self) -> int:
        """Steps done behind the checkpoint in the folder; -1 where there is none."""
        try:
            return read_info(self._request.out).steps_done
        except CheckpointError:
            return -1


class _Fit(threading.Thread):
    """Ray Train's own wait for the end, beside the thread that hears signals: in that one Ray would answer them."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(daemon=True)
        self._trainer = trainer
        self.result: TrainResult | None = None
        self.held = Held()

    def run(self) -> None:
        with self.held:
            self.result = self._trainer.fit().return_value


class Remains:
    """What a driver that is killed leaves running, written down in the temporary folder under the training's own name.

    Whoever trains into the same folder next ends it, unless that driver is still at work.
    """

    def __init__(self, out: Path) -> None:
        self._out, self._is_written = out, False
        name = hashlib.sha256(os.fsencode(out)).hexdigest()[:16]
        self._path = Path(tempfile.gettempdir()) / f"autopv-train-{os.getuid()}-{name}.json"

    def get_state(self, name: str) -> object:
        """What was written down under the name. Raises: InputError where another driver trains into the folder."""
        try:
            written = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        pid, started = written["driver"]
        driver = process(pid)
        if driver is not None and driver.started == started and pid != os.getpid():
            raise InputError(
                f"one training at a time can be written into a folder, but process {pid} still trains into {self._out}:"
                " wait for it or end it"
            )
        return written.get(name)

    def set_state(self, name: str, value: object) -> None:
        """Writes it down."""
        own = process(os.getpid())
        driver = [os.getpid(), 0 if own is None else own.started]
        with suppress(OSError):  # then it is not found by the next driver, which is no reason not to train
            self._path.write_text(json.dumps({"driver": driver, name: value}), encoding="utf-8")
            self._is_written = True

    def forget(self) -> None:
        """Nothing that this driver has written down is left running any more."""
        if self._is_written:
            self._path.unlink(missing_ok=True)
