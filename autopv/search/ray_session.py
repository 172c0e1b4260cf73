"""A Ray to run on: one of our own, started here and taken down without a trace, or a cluster that runs already."""

import importlib
import logging
import math
import os
import random
import re
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from autopv.errors import AutopvError, EndedAtOnce, InputError
from autopv.search.processes import Process, descendants, kill, mentioning

# Without these a search is wrong or dies, whatever the user's environment says.
_NEEDED_ENVIRONMENT = {
    # Ray would run a fresh `uv run` for each worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Most reports have no distance.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ray would answer Ctrl-C by returning from fit() as if all were well; the executor hears signals itself.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
# Read by Ray when it is imported; a user may have set them otherwise.
_RAY_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers are started when there is work for them, not ahead of it: a machine may be busy enough already.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    # A budgeted device is reserved: by default Ray lets its workers give way to everything else on the machine.
    "RAY_worker_niceness": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    # While it waits, Ray looks only so often whether a signal has come.
    "RAY_get_check_signal_interval_milliseconds": "100",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
    # A worker that does not stop when told to is ended after this long, not after ten minutes.
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
}
_OBJECT_STORE_BYTES = 256 * 2**20
_PREFIX = "autopv-ray-"
# Ray's sockets lie this deep in its folder, and a socket's path may have 103 bytes at most (macOS; 107 on Linux).
_LONGEST_TEMP = 103 - len("/autopv-ray-12345678/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
# On a machine busy with other things Ray's helpers may miss the deadline that Ray gives them.
_START_ATTEMPTS = 5
# A machine of a cluster that does not answer within this long is not there.
_ANSWER_S = 5.0
_SCRATCH = "ray_scratch"
# Above the ports of Ray's workers, below those that systems give to connections.
_PORTS = (20000, 32768)
# Ray's words for a device.
RESOURCE = {"cpu": "CPU", "gpu": "GPU"}


class Remembers(Protocol):
    """Keeps small JSON values for the next driver: a run's ledger, say."""

    def get_state(self, name: str) -> object:
        """The value kept under `name`, or None."""

    def set_state(self, name: str, value: object) -> None:
        """Keeps it."""


class RaySession:
    """Ray, up from `start` to `stop`.

    address: None starts a Ray of our own, whatever other clusters there are; "auto" or host:port joins a running one.
    ledger: where the folder of our own Ray is written down, so that the next driver removes it if this one is killed.
    at_once: set when there is no time to lose: `stop` then kills what it would otherwise close in order, and this
        process must end itself without closing Ray (EndedAtOnce).
    """

    def __init__(self, *, address: str | None, num_workers: int, device: str, share: float, ledger: Remembers) -> None:
        self._address, self._num_workers, self._device, self._share = address, num_workers, device, share
        self._ledger = ledger
        self._scratch: Path | None = None
        self.at_once = False

    @property
    def is_own(self) -> bool:
        """Whether this Ray is ours alone, and gone with us."""
        return self._address is None

    @property
    def scratch(self) -> Path:
        """Where Ray keeps what it writes down about a launch."""
        assert self._scratch is not None
        return self._scratch

    def start(self) -> None:
        """Brings Ray up.

        Raises:
            InputError: no cluster answers at the address, or it has no device of the kind.
            AutopvError: a Ray of our own does not come up.
        """
        self._remove_remains()
        self._scratch = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_temp_folder()))
        self._ledger.set_state(_SCRATCH, {"host": socket.gethostname(), "path": str(self._scratch)})
        try:
            if self._address is None:
                self._start_own()
            else:
                _join(self._address)
                self._check_devices(self._address)
        except KeyboardInterrupt as interrupt:
            self.at_once = True
            self.stop()
            raise EndedAtOnce from interrupt
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Takes Ray down (of a cluster, leaves it); nothing of it is left, neither processes nor files."""
        import ray

        own = self._own_processes()
        try:
            if not self.at_once:
                _quietly_shut_down(ray)
        finally:
            kill(own)
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)
                self._scratch = None

    def restart(self) -> None:
        """Takes Ray down and brings it up again, after it broke down."""
        self.stop()
        self.start()

    def _start_own(self) -> None:
        ray = _imported()
        for attempt in range(1, _START_ATTEMPTS + 1):
            try:
                with _sigterm_kept(), _few_helpers():
                    ray.init(
                        address="local",
                        num_cpus=math.ceil(self._num_workers * (self._share if self._device == "cpu" else 1)),
                        num_gpus=None if self._device == "gpu" else 0,
                        include_dashboard=False,
                        logging_level=logging.CRITICAL,
                        log_to_driver=False,
                        object_store_memory=_OBJECT_STORE_BYTES,
                        _temp_dir=str(self._scratch),
                    )
                return
            except Exception as error:
                kill(self._own_processes())  # what a half-started Ray has started so far, it forgets
                _quietly_shut_down(ray)
                if attempt == _START_ATTEMPTS:
                    raise AutopvError(
                        f"Ray did not start in {attempt} attempts: {str(error).splitlines()[0]} "
                        "Is this machine very busy, or out of memory or of room in its temporary folder?"
                    ) from error

    def _own_processes(self) -> list[Process]:
        """All that belongs to a Ray of our own: what it started names its folder, and the workers descend from that."""
        from ray._private import worker

        if self._address is not None:
            return []
        node = worker._global_node
        known = set() if node is None else {process.pid for _, process in node.live_processes()}
        return descendants(known | {process.pid for process in mentioning(str(self._scratch))})

    def _check_devices(self, address: str) -> None:
        import ray

        found = ray.cluster_resources().get(RESOURCE[self._device], 0)
        if found < self._share:
            raise InputError(
                f"--address {address}: the budget is in {self._device} time and a worker needs {self._share:g} of one, "
                f"but the cluster has {found:g}."
            )

    def _remove_remains(self) -> None:
        """Ends and removes what an earlier driver of this run left behind on this machine when it was killed."""
        remains = self._ledger.get_state(_SCRATCH)
        if not isinstance(remains, dict) or remains.get("host") != socket.gethostname():
            return
        path = Path(str(remains["path"]))
        if path.name.startswith(_PREFIX) and path.is_dir() and path.stat().st_uid == os.getuid():
            kill(mentioning(str(path)))
            shutil.rmtree(path, ignore_errors=True)


def num_devices(address: str, *, device: str) -> int:
    """How many devices of a kind ("cpu": cores, or "gpu") a running cluster has in all.

    Raises:
        InputError: no cluster answers at the address.
    """
    ray = _join(address)
    try:
        return int(ray.cluster_resources().get(RESOURCE[device], 0))
    finally:
        _quietly_shut_down(ray)


def call_on_device(function: Callable[..., Any], arguments: Mapping[str, Any], *, address: str, device: str) -> Any:
    """What `function(**arguments)` returns on a device of a running cluster, where the driver itself may have none.

    Raises:
        InputError: no cluster answers at the address.
    """
    ray = _join(address)
    try:
        remote = ray.remote(num_cpus=1 if device == "cpu" else 0, num_gpus=1 if device == "gpu" else 0)(function)
        return ray.get(remote.remote(**arguments))
    finally:
        _quietly_shut_down(ray)


def _join(address: str) -> Any:
    ray = _imported()
    try:
        _check_answers(address)
        with _sigterm_kept():
            ray.init(address=address, logging_level=logging.CRITICAL, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--address {address}: no Ray cluster can be joined there ({str(error).splitlines()[0]}). Give `auto` on "
            "one of its machines, or host:port; `ray start --head` starts one. Without --address this machine is used."
        ) from error
    return ray


def _check_answers(address: str) -> None:
    """Nothing, if someone listens at host:port. Ray itself would ask for minutes. Raises: OSError, ValueError."""
    if address == "auto" or "://" in address:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError("it is neither `auto` nor host:port")
    socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()


def _imported() -> Any:
    os.environ.update({name: os.environ.get(name, value) for name, value in _RAY_ENVIRONMENT.items()})
    os.environ.update(_NEEDED_ENVIRONMENT)
    import ray
    from ray._private import ray_logging

    # Ray tells of lost workers and nodes on stdout, whatever log_to_driver says; the event log tells it better.
    ray_logging.stdout_deduplicator.skip_re = ray_logging.stderr_deduplicator.skip_re = re.compile("")
    return ray


@contextmanager
def _few_helpers() -> Iterator[None]:
    """A block in which Ray starts with fewer helpers and does not wait for them, for which init has no arguments.

    Left out are three processes that ask clouds for machines, forward logs, and answer the dashboard (whose server Ray
    starts, and waits for, even without a dashboard). Of the others Ray waits to be told the ports, and breaks down if
    that takes over 15 s, as it does on a busy machine: it is told beforehand that there are no metrics, and the port of
    the one it needs.
    """
    from ray._private import node, parameter

    raylet: Any = importlib.import_module("ray._raylet")
    params, start_raylet, start_server = parameter.RayParams, node.Node.start_raylet, node.Node.start_api_server

    def start_without_waiting(self: Any, *arguments: Any, **named: Any) -> Any:
        names = (raylet.METRICS_AGENT_PORT_NAME, raylet.METRICS_EXPORT_PORT_NAME)
        for name in (*names, raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME):
            raylet.persist_port(self.get_session_dir_path(), self.node_id, name, -1)
        return start_raylet(self, *arguments, **named)

    def start_no_server(self: Any, **_: Any) -> None:
        self._webui_url = None

    parameter.RayParams = partial(
        params, no_monitor=True, include_log_monitor=False, runtime_env_agent_port=_free_port()
    )
    node.Node.start_raylet, node.Node.start_api_server = start_without_waiting, start_no_server
    try:
        yield
    finally:
        parameter.RayParams = params
        node.Node.start_raylet, node.Node.start_api_server = start_raylet, start_server


def _free_port() -> int:
    """A port of this machine that nobody listens at now.

    Ray's helper takes it seconds later, and takes Ray down with it if it cannot: so it is none of those that the system
    meanwhile gives to connections (of another Ray, say), and none that Ray gives to its workers.
    """
    first, end = _PORTS
    with suppress(OSError, ValueError):
        end = min(end, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0]))
    draw = random.SystemRandom()
    for _ in range(100 if first < end else 0):
        port = draw.randrange(first, end)
        with socket.socket() as bound, suppress(OSError):
            bound.bind(("", port))
            return port
    with socket.socket() as bound:  # they are all taken, or the system gives them all to connections
        bound.bind(("", 0))
        return int(bound.getsockname()[1])


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray's own handler of SIGTERM, set by init, leaves without closing anything: the one before it comes back.

    It also answers a signal that Ray's has heard meanwhile.
    """
    before = signal.getsignal(signal.SIGTERM)
    in_main_thread = threading.current_thread() is threading.main_thread()
    heard = False
    try:
        yield
    except SystemExit as error:
        heard = in_main_thread and error.code == signal.SIGTERM
        if not heard:
            raise
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)
    if heard:
        signal.raise_signal(signal.SIGTERM)


def _quietly_shut_down(ray: Any) -> None:
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    ray.shutdown()


def _temp_folder() -> str:
    found = tempfile.gettempdir()
    return "/tmp" if len(os.fsencode(found)) > _LONGEST_TEMP and Path("/tmp").is_dir() else found
