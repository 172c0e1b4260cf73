"""What one sampled image costs in every family, in FLOPs counted by torch; writes sampling.json. Takes seconds."""

import json
import sys
from pathlib import Path

from run import FAMILIES, SIZE_PX

from autopv.models.base import build_model
from autopv.search.environment import environment

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from trainers import sampling_flops

HERE = Path(__file__).parent


def main() -> None:
    rows = []
    for family, preset in FAMILIES:
        for num_frames in (1, 3):
            model = build_model(family, preset=preset, size_px=SIZE_PX, channels=1, num_frames=num_frames, seed=0)
            mflops = round(sampling_flops(model) / 1e6, 2)
            rows.append({"family": family, "preset": preset, "num_frames": num_frames, "mflops": mflops})
            print(rows[-1])
    result = {"size_px": SIZE_PX, "rows": rows, "versions": environment(budget_device="cpu")}
    (HERE / "sampling.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
