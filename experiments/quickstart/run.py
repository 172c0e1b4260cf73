"""Runs the README's quick start as a user would and measures what it costs beside training and evaluation.

Writes output.txt (what the command printed), result.json (the measurements) and the run's pictures beside this file.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from autopv.search.budget import Budget
from autopv.search.events import read_events

HERE = Path(__file__).parent
PAGE_KIB = 1024


def descendants(root: int) -> list[int]:
    """The process and all its children, as /proc shows them now."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def proportional_mib(root: int) -> float:
    """Memory of a process tree in MiB, pages shared by several processes counted once (PSS)."""
    total_kib = 0
    for pid in descendants(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total_kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total_kib / PAGE_KIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="10cpu-min")
    budget = parser.parse_args().budget
    out = Path(tempfile.mkdtemp()) / "run"
    command = ["autopv", "search", "--data", "elpv", "--budget", budget, "--out", str(out)]
    started_s = time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", "autopv.cli", *command[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            print(line, end="", flush=True)

    reader = threading.Thread(target=read)
    reader.start()
    peak_mib = 0.0
    while process.poll() is None:
        peak_mib = max(peak_mib, proportional_mib(process.pid))
        time.sleep(5)
    reader.join()
    wall_s = time.time() - started_s
    assert process.returncode == 0, "the quick start failed"
    events = list(read_events(out / "events.jsonl"))
    result = json.loads((out / "result.json").read_text())
    first_report_s = next(e["time"] for e in events if e["event"] == "progress") - started_s
    limit_s = Budget.parse(budget).device_s
    assert limit_s is not None
    # Training and evaluation run on all workers at once: their share of the wall time is their time over the workers.
    busy_s = (result["use_s"]["training"] + result["use_s"]["evaluation"]) / result["settings"]["num_workers"]
    measured = {
        "command": " ".join(command[:-2]),
        "wall_s": round(wall_s, 1),
        "first_training_report_s": round(first_report_s, 1),
        "wall_share_outside_training_and_evaluation": round(1 - busy_s / wall_s, 3),
        "peak_memory_mib": round(peak_mib),
        "overspent_share": round(max(0.0, result["spent_s"] / limit_s - 1), 4),
        "spent_s": round(result["spent_s"], 1),
        "use_s": {use: round(seconds, 1) for use, seconds in result["use_s"].items()},
        "conclusion": result["verdict"]["conclusion"],
        "settings": result["settings"],
    }
    (HERE / "result.json").write_text(json.dumps(measured, indent=2) + "\n")
    (HERE / "output.txt").write_text("".join(lines).replace(str(out), "runs/quickstart"))
    for name in ("preview.png", "samples.png"):
        shutil.copy(out / name, HERE / name)
    print(json.dumps({k: v for k, v in measured.items() if k != "settings"}, indent=2))


if __name__ == "__main__":
    main()
