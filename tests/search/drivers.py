"""autopv as a process that is sent signals, and what it leaves behind."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from launching import cli_command


class Process:
    """autopv in a session of its own, so that whatever it starts can be told from all else."""

    def __init__(self, arguments: list[str], *, temp_folder: Path, stderr: Path | None = None) -> None:
        with open(stderr or os.devnull, "w") as told:
            self.process = subprocess.Popen(
                cli_command(arguments),
                stdout=subprocess.DEVNULL,
                stderr=told if stderr is not None else subprocess.PIPE,
                text=True,
                start_new_session=True,
                env={**os.environ, "TMPDIR": str(temp_folder)},
            )

    def interrupt(self, number: int) -> float:
        """Sends a signal as a terminal does: to all processes of the group; returns when."""
        os.killpg(self.process.pid, number)
        return time.time()

    def end(self, timeout: float = 90) -> tuple[int, str]:
        """The exit code, and what was written to a piped stderr; nothing that it started may run on."""
        _, stderr = self.process.communicate(timeout=timeout)
        return self.process.returncode, stderr

    def running(self) -> dict[int, str]:
        """What it has started and is running, by number."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                if int(fields[3]) == self.process.pid and fields[0] != "Z":
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")[:200]
            except OSError:
                continue
        return found

    def kill_all(self) -> None:
        """Ends it and all it has started."""
        for pid in (self.process.pid, *self.running()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def wait_until(self, happened: Callable[[], bool], *, timeout_s: float = 600) -> None:
        """Returns once it has happened; until then it must be running."""
        deadline_s = time.monotonic() + timeout_s
        while not happened():
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            assert time.monotonic() < deadline_s, "it takes too long"
            time.sleep(0.1)


def left_in(temp_folder: Path) -> list[str]:
    """What lies in the temporary folder, but for the cache that torch keeps there."""
    return [path.name for path in temp_folder.iterdir() if not path.name.startswith("torchinductor")]
