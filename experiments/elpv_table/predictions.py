"""What became of the predictions in README.md, on the policies that had not been recorded when they were written down.

Writes predictions.md.
"""

import json
import math
from pathlib import Path

import torch
from prescreen import LATER, profiles
from surrogate import SEEDS, correlation, load, mean_log_excess, sightings

from autopv.search.belief import Belief

HERE = Path(__file__).parent
LATEST = LATER[2:]
"""Of the last prediction: random-23 and random-36 had one seed each when the first three were written down."""
BEST_WEIGHT = 0.08


def main() -> None:
    torch.set_num_threads(1)
    curves, policies, floor = load()
    excess = {name: mean_log_excess(seeds, floor=floor) for name, seeds in curves.items()}
    farthest = {name: profile["farthest"] for name, profile in profiles().items()}
    known = [name for name in curves if name not in LATEST]
    belief = Belief(sightings(known, curves=curves, policies=policies, seeds=SEEDS), floor=floor)
    measures = {
        "1. number of layers": (LATER, {name: float(len(policies[name].layers)) for name in LATER}),
        "2. distance of the frame-loss weight from 0.08": (
            LATER,
            {name: abs(math.log(policies[name].frame_loss_weight / BEST_WEIGHT)) for name in LATER},
        ),
        "3. pixel distance of the farthest frame": (LATER, farthest),
        "5. what the belief expects from the policies before": (
            LATEST,
            dict(zip(LATEST, belief.expect([policies[name] for name in LATEST]).mean_P.tolist(), strict=True)),
        ),
    }
    lines = [
        "Spearman's correlation with the excess at the end (mean of both seeds) among the policies recorded after the "
        "prediction was written down, with its 95% interval over policies:",
        "",
        "| prediction | correlation | policies |",
        "|---|---|---|",
    ]
    found = {}
    for measure, (names, values) in measures.items():
        one = correlation([values[name] for name in names], [excess[name] for name in names])
        found[measure] = one | {"policies": len(names)}
        lines.append(f"| {measure} | {one['rho']:+.2f} ({one['low']:+.2f} to {one['high']:+.2f}) | {len(names)} |")
    (HERE / "predictions.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (HERE / "predictions.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
