"""What a job shows while it runs: a panel on a real pseudo-terminal, JSON events in a pipe."""

import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path
from select import select

import pytest
from launching import RunCli, cli_command

from autopv.search.events import EVENTS, read_events

sys.path.append(str(Path(__file__).parents[1] / "report"))
from screen import Screen

pytestmark = pytest.mark.slow

WIDTH = 60
_QUIET_S = 0.1
NOT_LOGGED = {"calibrating", "result"}


def on_terminal(arguments: Sequence[str], *, interrupt_at: str) -> tuple[int, Screen, str]:
    """Runs a command on a terminal of its own and types Ctrl-C there: exit code, screen, and all that was written."""
    driver_end, job_end = pty.openpty()
    ioctl(job_end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
    hidden = {"NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | {"TERM": "xterm"}
    # A new session, whose terminal this becomes: Ctrl-C reaches the job as it does from a keyboard.
    launch = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", launch, *cli_command(arguments)],
        stdin=job_end,
        stdout=job_end,
        stderr=job_end,
        env=environment,
        start_new_session=True,
    )
    os.close(job_end)
    written, interrupted = b"", False
    while True:
        try:
            piece = os.read(driver_end, 65536)
        except OSError:  # the job has closed its end
            break
        if not piece:
            break
        written += piece
        # Typed once the panel is drawn: a terminal drops what it has not shown yet when Ctrl-C is typed.
        is_due = not interrupted and interrupt_at.encode() in written
        if is_due and "╯".encode() in piece and not select([driver_end], [], [], _QUIET_S)[0]:
            os.write(driver_end, b"\x03")
            interrupted = True
    os.close(driver_end)
    text = written.decode()
    screen = Screen(width=WIDTH)
    screen.write(text)
    return process.wait(timeout=60), screen, text


@pytest.fixture(scope="module")
def interrupted(
    image_file: Path, quick_metric: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int, Screen, str]:
    """A run that was stopped by Ctrl-C after its first trial, seen on a terminal."""
    out = tmp_path_factory.mktemp("runs") / "run"
    search = ["search", "--data", str(image_file), "--budget", "3trials", "--out", str(out)]
    options = ["--metric", quick_metric, "--trial-steps", "12", "--seeds", "1", "--workers", "1"]
    return out, *on_terminal([*search, *options], interrupt_at="full compute  distance")


@pytest.fixture(scope="module")
def followed(interrupted: tuple[Path, int, Screen, str], run_cli: RunCli) -> tuple[Path, list[dict[str, object]], str]:
    """The same run resumed with --json: its folder, the events on stdout, and stderr."""
    done = run_cli("resume", str(interrupted[0]), "--json")
    assert done.returncode == 0, done.stderr
    return interrupted[0], [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_a_terminal_shows_one_panel_and_is_left_clean_by_an_interrupt(
    interrupted: tuple[Path, int, Screen, str],
) -> None:
    out, code, screen, written = interrupted
    assert code == 130
    shown = screen.text()
    assert shown.count("╭─ autopv") == 1
    assert shown.index("Starting the workers") < shown.index("full compute  distance") < shown.index("╭─ autopv")
    after = shown[shown.index("╯") + 1 :]
    assert after.replace("\n", "").endswith(f"autopv: interrupted. To go on: autopv resume {out}")
    assert screen.cursor_shown
    assert "\x1b[1m" in written, "labels are bold"


def test_the_panel_names_image_only_and_its_excess(interrupted: tuple[Path, int, Screen, str]) -> None:
    shown = interrupted[2].text()
    assert "image-only: excess" in shown
    assert "1 complete" in shown
    assert " of 3 trials ended" in shown


def test_json_events_are_those_of_the_log_and_the_result_is_the_last(
    followed: tuple[Path, list[dict[str, object]], str],
) -> None:
    folder, events, stderr = followed
    logged = list(read_events(folder / "events.jsonl"))
    told = [event for event in events if event["event"] not in NOT_LOGGED]
    assert told == logged[-len(told) :]
    assert told[0]["event"] == "launched"
    assert stderr == ""
    result = json.loads((folder / "result.json").read_text())
    assert {name: value for name, value in events[-1].items() if name != "time"} == {"event": "result", **result}


def test_what_a_run_writes_is_what_is_documented(followed: tuple[Path, list[dict[str, object]], str]) -> None:
    folder, events, _ = followed
    seen = set()
    for event in [*read_events(folder / "events.jsonl"), *events]:
        name = str(event["event"])
        seen.add(name)
        assert set(event) == {"time", "event", *EVENTS[name]}, name
    assert seen >= set(EVENTS) - {"worker_lost", "ray_failed", "progress"}
