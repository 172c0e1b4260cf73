"""Measures what a large set holds in memory, read whole and mapped: load it, split it, take one epoch of batches.

The set is made here: JPEG files of CelebA's size, all different. Each case runs in a process of its own, with the
decoded images in the cache (but for the first, which decodes them). Writes memory.json beside this file.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
SIZE_PX = 64
CASES = {"decoded and mapped": 0.0, "mapped": 0.0, "held": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000, help="how many; CelebA's training part has 162,770")
    parser.add_argument("--case", choices=list(CASES), help="measure this one, in this process, on --data")
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(measure(arguments.data, memory_share=CASES[arguments.case])))
        return
    from autopv.search.environment import environment

    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "images"
        write_images(data, count=arguments.images)
        own = {"XDG_CACHE_HOME": str(Path(scratch) / "cache"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        measured = {}
        for case in CASES:
            command = [sys.executable, __file__, "--case", case, "--data", str(data)]
            done = subprocess.run(command, env={**os.environ, **own}, check=True, capture_output=True, text=True)
            measured[case] = json.loads(done.stdout)
            print(case, measured[case], flush=True)
    digests = {one.pop("digest") for one in measured.values()}
    assert len(digests) == 1, "every case must see the same bytes"
    result = {
        "num_images": arguments.images,
        "size_px": SIZE_PX,
        "set_mib": round(arguments.images * 3 * SIZE_PX**2 / 2**20),
        "cases": measured,
        "environment": environment(budget_device="cpu"),
    }
    (HERE / "memory.json").write_text(json.dumps(result, indent=2) + "\n")


def measure(data: Path, *, memory_share: float) -> dict[str, object]:
    """Peaks in MiB above what the imported libraries take, and a hash of every batch."""
    import hashlib

    from autopv.data import memory
    from autopv.training.material import Material, Setup
    from autopv.training.streams import BatchOrder

    memory.MEMORY_SHARE = memory_share
    before, peaks = rss_mib(), rss_mib()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            for kind, value in rss_mib().items():
                peaks[kind] = max(peaks[kind], value)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started_s = time.monotonic()
    material = Material.load(Setup(data=str(data), size_px=SIZE_PX))
    train_NCHW = material.images("train")
    order, content = BatchOrder(len(train_NCHW), batch_size=32, seed=0), hashlib.sha256(material.splits.digest.encode())
    for step in range(len(train_NCHW) // 32):
        content.update(train_NCHW[order.indices(step)].float().div_(255).numpy().data)
    took_s = time.monotonic() - started_s
    ended.set()
    watcher.join()
    above = {f"peak_{kind}_mib": round(peaks[kind] - before[kind]) for kind in peaks}
    return {**above, "took_s": round(took_s, 1), "digest": content.hexdigest()}


def rss_mib() -> dict[str, float]:
    """Resident memory: `held` is the process's own; `file` is what of mapped files happens to be in memory, which the
    system takes back when it needs it, and which processes that map one file share."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"total": "VmRSS", "held": "RssAnon", "file": "RssFile"}
    return {kind: int(fields[name].split()[0]) / 1024 for kind, name in names.items()}


def write_images(folder: Path, *, count: int) -> None:
    import numpy as np
    from PIL import Image

    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        small = Image.fromarray(random.integers(0, 256, (11, 9, 3), dtype=np.uint8))
        content = io.BytesIO()
        small.resize((178, 218), Image.Resampling.BILINEAR).save(content, "JPEG", quality=90)
        (folder / f"{index + 1:06d}.jpg").write_bytes(content.getvalue())


if __name__ == "__main__":
    main()
