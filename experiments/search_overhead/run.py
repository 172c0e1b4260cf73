"""Runs a search as a user would and tells what the charged device time went into. Writes result.json and table.md here.

Exit code 1 if less than the promised share was training and evaluation.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from autopv.search.ledger import Ledger
from autopv.search.run_folder import RunFolder

HERE = Path(__file__).parent
PROMISED = 0.9


def measured(run: Path) -> dict[str, Any]:
    """What a run that is over spent, by use (with the training's own rendering as training) and by phase."""
    folder = RunFolder(run)
    settings = folder.settings()
    ledger = Ledger(folder.ledger, read_only=True)
    spent_s, use_s = ledger.spent_s(), ledger.usage()
    phase_s = {phase: ledger.spent_s(phase=phase) for phase in ("search", "verify")}
    ledger.close()
    useful_s = sum(use_s.get(use, 0.0) for use in ("training", "evaluation", "rendering"))
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return {
        "command": f"autopv search --data {settings.data} --budget {settings.budget}",
        "workers": settings.num_workers,
        "seed": settings.seed,
        "versions": settings.versions,
        "trial_steps": settings.trial_steps,
        "spent_s": round(spent_s, 1),
        "use_s": {use: round(seconds, 1) for use, seconds in use_s.items()},
        "phase_s": {phase: round(seconds, 1) for phase, seconds in phase_s.items()},
        "training_and_evaluation": round(useful_s / spent_s, 4),
        "promised": PROMISED,
        "trials": len(result["trials"]),
        "conclusion": result["verdict"]["conclusion"],
    }


def table(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"`{found['command']}`, {found['workers']} workers",
        "",
        "| use | device-seconds | share |",
        "|---|---|---|",
    ]
    lines += [
        f"| {use} | {seconds:.0f} | {seconds / found['spent_s']:.1%} |" for use, seconds in found["use_s"].items()
    ]
    share = found["training_and_evaluation"]
    lines.append(
        f"| **training, its rendering, and evaluation** | | **{share:.1%}** (promised {found['promised']:.0%}) |"
    )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="30cpu-min")
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--run", type=Path, help="reads this run, which is over, instead of making one")
    options = parser.parse_args()
    run = options.run or Path(tempfile.mkdtemp()) / "run"
    if options.run is None:
        arguments = ["search", "--data", options.data, "--budget", options.budget, "--out", str(run)]
        subprocess.run([sys.executable, "-m", "autopv.cli", *arguments], check=True)
    found = measured(run)
    (HERE / "result.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (HERE / "table.md").write_text(table(found), encoding="utf-8")
    print(table(found))
    return 0 if found["training_and_evaluation"] >= PROMISED else 1


if __name__ == "__main__":
    sys.exit(main())
