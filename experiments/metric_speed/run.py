"""Times distances and whole evaluations beside clean-fid in one run, on one thread; writes result.json and table.md."""

import argparse
import hashlib
import json
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from autopv.data.images import load_images
from autopv.evaluation.evaluate import EvaluateRequest, evaluate
from autopv.metrics.extractors import load_extractor
from autopv.metrics.features import Extractor
from autopv.metrics.frechet import frechet_distance
from autopv.metrics.inception import WEIGHTS_VARIABLE, InceptionExtractor
from autopv.metrics.kernel import kernel_distance
from autopv.metrics.lite0 import _Lite0, find_weights
from autopv.metrics.metric import as_float
from autopv.metrics.weights import WeightFile
from autopv.search.environment import environment

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread

HERE = Path(__file__).parent
SIZE_PX = 64
LITE0_INPUT_PX = 128
NUM_DISTANCE = 512
WIDTHS = (1280, 2048)  # lite0's and Inception's features
BATCH_SIZE = 32  # clean-fid's default
WORKERS = (0, 2, 12)  # none, one for each core, clean-fid's default
NUM_TRIED = 128  # images by which clean-fid's number of workers is chosen
LITE0_FORMS = ("lite0", "lite0-plain")
NETWORKS = (*LITE0_FORMS, "inception")
STAND_IN_VARIABLE = "AUTOPV_STAND_IN_WEIGHTS"


def distances(*, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Times and values of the distances alone, features excluded."""
    from cleanfid import fid

    rows = []
    for width in WIDTHS:
        # Apart by a tenth: the kernel distance of equal distributions is near zero and shares no digits with anything.
        a, b = random_features(width, seed=seed), 1.1 * random_features(width, seed=seed + 1)
        a_ND, b_ND = a.numpy(), b.numpy()
        a64_ND, b64_ND = a_ND.astype(np.float64), b_ND.astype(np.float64)
        own_frechet, own_kernel = partial(frechet_distance, a, b), partial(kernel_distance, a, b)
        once = {"num_subsets": 1, "max_subset_size": NUM_DISTANCE}
        pairs: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
            "Fréchet": (own_frechet, partial(fid.fid_from_feats, a_ND, b_ND)),
            "KID, by clean-fid's 100 subsets": (own_kernel, partial(fid.kernel_distance, a_ND, b_ND)),
            "KID, all pairs once": (own_kernel, partial(fid.kernel_distance, a_ND, b_ND, **once)),
            "KID, all pairs once, float64 given": (own_kernel, partial(fid.kernel_distance, a64_ND, b64_ND, **once)),
        }
        for name, (own, other) in pairs.items():
            own()  # warms up
            timed = alternately({"autopv": own, "clean-fid": other}, rounds=rounds)
            rows.append({"name": name, "num_features": width, "n": NUM_DISTANCE, **timed})
            print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    return rows


def random_features(width: int, *, seed: int) -> Tensor:
    """Non-negative and correlated, like pooled features of a network: the times depend on the shape alone."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(width)) / width**0.5
    features_ND: Tensor = (torch.randn(NUM_DISTANCE, width, generator=generator) @ mixing).relu()
    return features_ND


def alternately(functions: dict[str, Callable[[], float]], *, rounds: int) -> dict[str, Any]:
    """Medians of both sides, which take turns, how often the first is as fast, and the digits their values share."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    values: dict[str, float] = {}
    for _ in range(rounds):
        for name, function in functions.items():
            started = time.perf_counter()
            values[name] = function()
            taken[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    own, other = functions
    return {
        "median_s": medians,
        "all_s": taken,
        "speedup": medians[other] / medians[own],
        "values": values,
        "digits": digits(values[own], values[other]),
    }


def digits(a: float, b: float) -> float:
    """Decimal digits that the two values have in common."""
    return 16.0 if a == b else -math.log10(abs(a - b) / abs(a))


class CleanFid:
    """clean-fid's way from images in memory to a distance, in the parts that it takes."""

    def __init__(self, model: Callable[[Tensor], Tensor], *, input_size_px: int, workers: int, folder: Path) -> None:
        from cleanfid.resize import make_resizer

        self._model = model
        self._workers = workers
        self._folder = folder
        # Its mode `clean`, at the network's input size; 299 px is its own.
        self._resizer = make_resizer("PIL", False, "bicubic", (input_size_px, input_size_px))
        self.parts_s: dict[str, float] = {}

    def write(self, images_NCHW: Tensor, name: str) -> Path:
        """The folder in which the images now are, as PNG."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._folder))
        for index, image_CHW in enumerate(images_NCHW.numpy()):
            Image.fromarray(image_CHW.transpose(1, 2, 0).squeeze()).save(folder / f"{index:05d}.png")
        return folder

    def features(self, folder: Path) -> NDArray[np.float32]:
        from cleanfid import fid

        features: NDArray[np.float32] = fid.get_folder_features(
            str(folder),
            self._model,
            num_workers=self._workers,
            batch_size=BATCH_SIZE,
            device=torch.device("cpu"),
            mode="clean",
            custom_fn_resize=self._resizer,
            verbose=False,
        )
        return features

    def distance(self, images_NCHW: Tensor, reference: tuple[NDArray[Any], NDArray[Any]]) -> float:
        """The distance from cached statistics, as cleanfid.fid.fid_folder computes it."""
        from cleanfid import fid

        started = time.perf_counter()
        folder = self.write(images_NCHW, "generated")
        written = time.perf_counter()
        features = self.features(folder)
        seen = time.perf_counter()
        value = float(fid.frechet_distance(*statistics_of(features), *reference))
        self.parts_s = {"png": written - started, "features": seen - written, "distance": time.perf_counter() - seen}
        return value

    def compute_fid(self, generated_NCHW: Tensor, reference_NCHW: Tensor) -> float:
        """The distance by its front door, which makes the reference's features anew each time."""
        from cleanfid import fid

        value: float = fid.compute_fid(
            str(self.write(generated_NCHW, "generated")),
            str(self.write(reference_NCHW, "reference")),
            mode="clean",
            num_workers=self._workers,
            batch_size=BATCH_SIZE,
            device=torch.device("cpu"),
            custom_feat_extractor=self._model,
            custom_fn_resize=self._resizer,
            verbose=False,
        )
        return float(value)


def statistics_of(features_ND: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and covariance as cleanfid.fid makes them."""
    return np.mean(features_ND, axis=0), np.cov(features_ND, rowvar=False)


def evaluation(
    name: str,
    extractor: Extractor,
    model: Callable[[Tensor], Tensor],
    *,
    images: tuple[Tensor, Tensor],
    rounds: int,
    folder: Path,
) -> dict[str, Any]:
    """Times of a whole evaluation of images in memory: against a cached reference, and by compute_fid."""
    reference_NCHW, generated_NCHW = images
    extractor.features(as_float(generated_NCHW[:BATCH_SIZE]))  # warms up
    by_workers = {}
    for workers in WORKERS:
        rival = CleanFid(model, input_size_px=extractor.input_size_px, workers=workers, folder=folder)
        tried = rival.write(reference_NCHW[:NUM_TRIED], "tried")
        started = time.perf_counter()
        rival.features(tried)
        by_workers[workers] = time.perf_counter() - started
    best = min(by_workers, key=lambda workers: by_workers[workers])
    rival = CleanFid(model, input_size_px=extractor.input_size_px, workers=best, folder=folder)
    statistics_NP = statistics_of(rival.features(rival.write(reference_NCHW, "reference")))
    reference_ND = extractor.features(as_float(reference_NCHW))
    parts: dict[str, list[dict[str, float]]] = {"autopv": [], "clean-fid": []}

    def own() -> float:
        started = time.perf_counter()
        features_MD = extractor.features(as_float(generated_NCHW))
        seen = time.perf_counter()
        value = frechet_distance(reference_ND, features_MD)
        parts["autopv"].append({"features": seen - started, "distance": time.perf_counter() - seen})
        return value

    def other() -> float:
        value = rival.distance(generated_NCHW, statistics_NP)
        parts["clean-fid"].append(rival.parts_s)
        return value

    timed = alternately({"autopv": own, "clean-fid": other}, rounds=rounds)
    started = time.perf_counter()
    value = rival.compute_fid(generated_NCHW, reference_NCHW)
    whole_s = time.perf_counter() - started
    row = {
        "name": name,
        "num_images": len(generated_NCHW),
        "input_size_px": extractor.input_size_px,
        "resizing_s": resizing_s(extractor, generated_NCHW),
        "workers_tried_s": by_workers,
        "workers": best,
        **timed,
        "parts_s": {
            side: {key: statistics.median(one[key] for one in all_) for key in all_[0]} for side, all_ in parts.items()
        },
        "compute_fid": {"s": whole_s, "value": value, "speedup": whole_s / timed["median_s"]["autopv"]},
    }
    print(json.dumps(row), flush=True)
    return row


def resizing_s(extractor: Extractor, images_NCHW: Tensor) -> float:
    """How long the images' way to the network's input takes, the network left out."""
    started = time.perf_counter()
    for chunk in torch.split(images_NCHW, extractor.chunk_size):
        extractor.fit(as_float(chunk).expand(-1, 3, -1, -1))
    return time.perf_counter() - started


def inception(
    folder: Path, calibration_NCHW: Tensor, *, seed: int
) -> tuple[str, Extractor, Callable[[Tensor], Tensor]]:
    """The official network where $AUTOPV_INCEPTION_WEIGHTS names it, else the stand-in; in either side's form."""
    from cleanfid.inception_torchscript import InceptionV3W
    from stand_in import FILE_NAME, save_stand_in

    path = folder / FILE_NAME
    named = os.environ.get(WEIGHTS_VARIABLE)
    if named:
        name, extractor = "Inception, official weights", InceptionExtractor()
        path.symlink_to(Path(named).resolve())
    else:
        save_stand_in(path, as_float(calibration_NCHW), seed=seed)
        content = path.read_bytes()
        os.environ[STAND_IN_VARIABLE] = str(path)
        weights = WeightFile(
            file_name=FILE_NAME,
            url="https://example.org/none",
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            variable=STAND_IN_VARIABLE,
        )
        name, extractor = "Inception, random weights", InceptionExtractor(weights=weights)
    # What cleanfid.features.feature_extractor builds, without its download.
    model = InceptionV3W(str(folder), download=False, resize_inside=False).eval()
    return name, extractor, model


def lite0(*, plain: bool) -> tuple[str, Extractor, Callable[[Tensor], Tensor]]:
    """autopv's lite0, and the same network as clean-fid's custom extractor (it hands over 0 ... 255).

    plain: its layers as its weights come, as clean-fid's Inception runs; else in the very form that autopv runs.
    """
    extractor = load_extractor("lite0", input_size_px=LITE0_INPUT_PX)
    if not plain:
        return "lite0 (clean-fid: our form)", extractor, lambda images_BCHW: extractor.forward_rgb(images_BCHW / 255)
    network = _Lite0()
    network.load_state_dict(torch.load(find_weights(), map_location="cpu", weights_only=True))
    network.eval()
    return "lite0 (clean-fid: plain layers)", extractor, lambda images_BCHW: network(images_BCHW / 127.5 - 1)


def command(images: tuple[Tensor, Tensor], *, folder: Path) -> dict[str, float]:
    """Seconds that `autopv evaluate` (lite0) takes for features and for all else, the reference's features cached."""
    paths = []
    for name, images_NCHW in zip(("reference", "generated", "few"), (*images, images[1][:BATCH_SIZE]), strict=True):
        paths.append(folder / f"{name}.npz")
        np.savez(paths[-1], images=images_NCHW.permute(0, 2, 3, 1).numpy())
    cache = folder / "features"

    def seconds(generated: Path) -> float:
        started = time.perf_counter()
        evaluate(EvaluateRequest(reference=str(paths[0]), generated=str(generated), cache=cache))
        return time.perf_counter() - started

    seconds(paths[2])  # fills the cache with the reference
    cold_s, warm_s = seconds(paths[1]), seconds(paths[1])
    return {"whole_s": cold_s, "features_s": cold_s - warm_s, "all_else_s": warm_s}


def elpv_images(num: int) -> tuple[tuple[Tensor, Tensor], str]:
    """Real cells and, in the place of generated ones, as many others, dimmed; uint8 (N, 1, 64, 64); and a digest."""
    loaded = load_images("elpv", size_px=SIZE_PX).images_NCHW
    order = torch.randperm(len(loaded), generator=torch.Generator().manual_seed(0))
    reference, generated = loaded[order[:num]], loaded[order[num : 2 * num]]
    generated = (generated.float() * 0.9).round().to(torch.uint8)
    content = reference.numpy().tobytes() + generated.numpy().tobytes()
    return (reference, generated), hashlib.sha256(content).hexdigest()


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| distance alone, n = 512 | features | autopv, s | clean-fid, s | clean-fid / autopv | common digits |"]
    lines.append("|" + "---|" * 6)
    for row in result["distances"]:
        own, other = row["median_s"].values()
        cells = (row["name"], row["num_features"], f"{own:.3f}", f"{other:.3f}", f"{row['speedup']:.1f}x")
        lines.append("| " + " | ".join(map(str, (*cells, f"{row['digits']:.1f}"))) + " |")
    lines += [
        "",
        f"| evaluation of {result['num_images']} images | autopv, s | clean-fid, s | clean-fid / autopv | digits |",
    ]
    lines.append("|" + "---|" * 5)
    for row in result["evaluations"]:
        own, other = row["median_s"].values()
        parts = {
            side: " + ".join(f"{key} {value:.2f}" for key, value in of.items()) for side, of in row["parts_s"].items()
        }
        name = f"{row['name']} at {row['input_size_px']} px"
        lines.append(
            f"| {name}, reference cached on both sides | {own:.1f} ({parts['autopv']}) | {other:.1f} "
            f"({parts['clean-fid']}; {row['workers']} workers) | {row['speedup']:.2f}x | {row['digits']:.1f} |"
        )
        whole = row["compute_fid"]
        lines.append(
            f"| {name}, clean-fid by `compute_fid(folder, folder)` | {own:.1f} | {whole['s']:.1f} "
            f"| {whole['speedup']:.2f}x | {digits(row['values']['autopv'], whole['value']):.1f} |"
        )
    told = result["autopv_evaluate"]
    lines += [
        "",
        f"`autopv evaluate` (lite0, reference cached): {told['whole_s']:.1f} s, of which features "
        f"{told['features_s']:.1f} s and all else {told['all_else_s']:.1f} s (floors, errors, KID, neighbours).",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000, help="on either side")
    parser.add_argument("--rounds", type=int, default=3, help="of the distances and of lite0's evaluation")
    parser.add_argument("--inception-rounds", type=int, default=2, help="minutes each")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    # SciPy's threads are counted when it is loaded, so this cannot be set from here.
    require_one_thread()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of clean-fid's calls, deprecated in SciPy and Pillow
    sets, digest = elpv_images(options.images)
    with tempfile.TemporaryDirectory(prefix="metric-speed-") as temporary:
        folder = Path(temporary)
        rows = []
        for name in LITE0_FORMS:
            if name in options.networks:
                network = lite0(plain=name == "lite0-plain")
                rows.append(evaluation(*network, images=sets, rounds=options.rounds, folder=folder))
        if "inception" in options.networks:
            network = inception(folder, sets[0][:BATCH_SIZE], seed=options.seed)
            rows.append(evaluation(*network, images=sets, rounds=options.inception_rounds, folder=folder))
        result = {
            "versions": environment(budget_device="cpu")
            | {name: version(name) for name in ("scipy", "clean-fid", "pillow")},
            "threads": 1,
            "seed": options.seed,
            "data": "elpv",
            "data_digest": digest,
            "size_px": SIZE_PX,
            "num_images": options.images,
            "rounds": {"distances, lite0": options.rounds, "inception": options.inception_rounds},
            "evaluations": rows,
            "autopv_evaluate": command(sets, folder=folder),
            "distances": distances(rounds=options.rounds, seed=options.seed),
        }
    (options.out / "result.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    (options.out / "table.md").write_text(table(result))


if __name__ == "__main__":
    main()
