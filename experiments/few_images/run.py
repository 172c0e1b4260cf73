"""Measures which metric tells corrupted images from real ones when there are few; writes result.json and table.md here.

The figures of each domain and n are kept in --work as soon as they are made: run the command again to go on.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autopv.data.images import ImageSet, load_images
from autopv.metrics.choice import ENOUGH_GENERATED, FEW_IMAGES
from autopv.metrics.extractors import load_extractor
from autopv.metrics.features import Extractor
from autopv.metrics.metric import as_float, default_input_size_px, distance_of_features
from autopv.policy.ops import get_op
from autopv.search.environment import environment

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread

HERE = Path(__file__).parent
EXTRACTOR = "lite0"
DOMAINS = {"elpv": 16, "textures": 32}
"""Demo sets, and the side they are loaded at."""
NUMS_REAL = (20, 32, 48, 64, 96, 128, 192, 320, 512)
NUMS_GENERATED = (128, 256, 512, 1024)
"""Beside as many as real ones, as far as the data goes."""
WEAK = {
    "blur": ("gaussian_blur", 0.028),
    "noise": ("gaussian_noise", 0.06),
    "jpeg": ("jpeg", 0.2),
    "contrast -10%": ("contrast", 0.1),
    "contrast -20%": ("contrast", 0.2),
}
"""Hardly visible: what is told apart from them at n = 320 must not be told at n = 20 already."""
GHOST = 0.1
"""Share of another image that shows through."""
DROPPED_SHARE = 0.08
"""Of the images, all of the rarest classes, that the last arm never shows."""
PERFECT = "real"
STANDARD_ERRORS = 2
"""From here on a difference counts."""


def arms(image_set: ImageSet, *, seed: int) -> dict[str, Tensor]:
    """All images as a perfect generator would show them, and as each flawed one would."""
    generator = torch.Generator().manual_seed(seed)
    images_NCHW = as_float(image_set.images_NCHW)
    found = {PERFECT: images_NCHW}
    for name, (op_name, magnitude) in WEAK.items():
        op = get_op(op_name)
        num, channels, height, width = images_NCHW.shape
        draw = op.draw((num, channels, height, width), generator=generator, device=images_NCHW.device)
        found[name] = op.corrupt(images_NCHW, draw, source=0.0, target=magnitude).clamp(0, 1)
    others = torch.randperm(len(images_NCHW), generator=generator)
    found["ghost"] = torch.lerp(images_NCHW, images_NCHW[others], GHOST)
    return found


def kept_after_drop(image_set: ImageSet) -> Tensor:
    """Which images are left when the rarest classes are gone."""
    labels = torch.tensor(image_set.labels)
    gone: list[int] = []
    for label, _ in sorted(Counter(labels.tolist()).items(), key=lambda item: (item[1], item[0])):
        if torch.isin(labels, torch.tensor(gone)).double().mean() >= DROPPED_SHARE:
            break
        gone.append(label)
    return ~torch.isin(labels, torch.tensor(gone))


def methods(n: int, *, available: int) -> dict[str, Callable[[Tensor, Tensor, Tensor], float]]:
    """Every way to measure: from reference (n), generated (any number, random order) and principal axes to a number."""

    def on(distance: str, count: int) -> Callable[[Tensor, Tensor, Tensor], float]:
        return lambda real, made, _: distance_of_features(real, made[:count], distance=distance)

    def averaged(count: int) -> Callable[[Tensor, Tensor, Tensor], float]:
        def mean(real: Tensor, made: Tensor, _: Tensor) -> float:
            draws = [draw for draw in made[:count].split(n) if len(draw) == n]
            return statistics.fmean(distance_of_features(real, draw, distance="fd") for draw in draws)

        return mean

    def reduced(num_axes: int) -> Callable[[Tensor, Tensor, Tensor], float]:
        return lambda real, made, axes: distance_of_features(
            real @ axes[:, :num_axes], made[:n] @ axes[:, :num_axes], distance="fd"
        )

    found = {
        "fd": on("fd", n),
        "kid": on("kid", n),
        f"fd, {max(4, n // 8)} axes": reduced(max(4, n // 8)),
        f"fd, {n // 2} axes": reduced(n // 2),
    }
    for count in NUMS_GENERATED:
        if n < count <= available:
            found[f"fd, {count} generated"] = on("fd", count)
            found[f"kid, {count} generated"] = on("kid", count)
            if count >= 2 * n:
                found[f"fd, {count} generated, in draws of n"] = averaged(count)
    return found


def study(job: tuple[str, int, int, int, str]) -> None:
    """The discriminability of every method and flawed arm at one domain and n, written into the work folder."""
    domain, n, redraws, seed, path = job
    torch.set_num_threads(1)
    image_set = load_images(domain, size_px=DOMAINS[domain])
    features = load_file(Path(path).parent / features_name(domain, seed))
    kept_N = kept_after_drop(image_set)
    total = len(image_set)
    # What a user with n images a side has for training, or a quarter here so that enough are left for the arms.
    num_other = min(3 * n, total // 4)
    # The two arms never share an image: like the samples of two models, they are independent draws.
    num_arm = (total - n - num_other) // 2
    # A margin, because a draw may hold more of the dropped classes than the set does.
    available = int(num_arm * float(kept_N.double().mean()) * 0.97)
    if available < n:
        return
    chosen = methods(n, available=available)
    generator = torch.Generator().manual_seed(seed + n)
    names = [*features, "dropped classes"]
    values: dict[str, dict[str, list[float]]] = {method: {name: [] for name in names} for method in chosen}
    for _ in range(redraws):
        order = torch.randperm(total, generator=generator)
        reference, other, perfect, flawed = order[: n + num_other + 2 * num_arm].split([n, num_other, num_arm, num_arm])
        real_ND = features[PERFECT][reference].double()
        others_ND = features[PERFECT][other].double()
        axes_DK = torch.linalg.svd(others_ND - others_ND.mean(dim=0), full_matrices=False).Vh.T
        made = {name: features[name][perfect if name == PERFECT else flawed].double() for name in features}
        made["dropped classes"] = features[PERFECT][flawed[kept_N[flawed]]].double()
        for method, function in chosen.items():
            for name in names:
                values[method][name].append(function(real_ND, made[name], axes_DK))
    told = {method: summary(by_arm) for method, by_arm in values.items()}
    row = {"domain": domain, "n": n, "redraws": redraws, "methods": told, "verdict": verdict(values, told=told, n=n)}
    partial = Path(path).with_suffix(".part")
    partial.write_text(json.dumps(row))
    partial.replace(path)
    print(f"{domain}, n = {n}", flush=True)


def summary(by_arm: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """A method's floor, and each flawed arm's mean difference to the perfect one over the difference's deviation."""
    told = {}
    for name, values in by_arm.items():
        if name != PERFECT:
            differences = [one - perfect for one, perfect in zip(values, by_arm[PERFECT], strict=True)]
            told[name] = statistics.fmean(differences) / statistics.stdev(differences)
    return {
        "floor": statistics.fmean(by_arm[PERFECT]),
        "discriminability": {name: round(value, 3) for name, value in told.items()},
        "mean": round(statistics.fmean(told.values()), 3),
        "right_order": round(statistics.fmean(right_orders(by_arm)), 4),
    }


def right_orders(by_arm: Mapping[str, Sequence[float]]) -> list[float]:
    """For each redraw the share of the flawed arms that are farther from the reference than the perfect one."""
    flawed = [values for name, values in by_arm.items() if name != PERFECT]
    return [
        statistics.fmean(value > perfect for value in drawn)
        for perfect, drawn in zip(by_arm[PERFECT], zip(*flawed, strict=True), strict=True)
    ]


def verdict(
    values: Mapping[str, Mapping[str, Sequence[float]]], *, told: Mapping[str, Mapping[str, Any]], n: int
) -> dict[str, Any]:
    """The Fréchet beside the kernel distance, with as many generated images as autopv takes where the data allows."""
    used = {}
    for distance in ("fd", "kid"):
        names = [f"{distance}, {count} generated" for count in NUMS_GENERATED if count <= ENOUGH_GENERATED]
        used[distance] = next((name for name in reversed(names) if name in values), distance)
    redraws = len(values["fd"][PERFECT])
    sides = {
        distance: {
            "method": method,
            "mean": told[method]["mean"],
            "right_order": told[method]["right_order"],
            "prefers_to_real": {
                name: value
                for name, value in told[method]["discriminability"].items()
                if value < -STANDARD_ERRORS * error_of(value, redraws=redraws)
            },
        }
        for distance, method in used.items()
    }
    of_fd, of_kid = (right_orders(values[used[distance]]) for distance in ("fd", "kid"))
    leads = [one - other for one, other in zip(of_fd, of_kid, strict=True)]
    lead, error = statistics.fmean(leads), statistics.stdev(leads) / math.sqrt(redraws)
    better = "tie" if abs(lead) < STANDARD_ERRORS * error else "fd" if lead > 0 else "kid"
    return sides | {
        "fd_lead": round(lead, 4),
        "standard_error": round(error, 4),
        "better": better,
        "autopv": "kid" if n < FEW_IMAGES else "fd",
    }


def error_of(discriminability: float, *, redraws: int) -> float:
    """Its standard error over so many redraws, for normal differences."""
    return math.sqrt((1 + discriminability**2 / 2) / redraws)


def extractor_for(size_px: int) -> Extractor:
    """The same for both domains, whose images are small."""
    return load_extractor(EXTRACTOR, input_size_px=default_input_size_px(EXTRACTOR, image_size_px=size_px))


def features_name(domain: str, seed: int) -> str:
    return f"{domain}-{seed}.safetensors"


def extract(domain: str, folder: Path, *, seed: int) -> dict[str, str]:
    """The domain's data digest; features of all arms are in the folder afterwards."""
    image_set = load_images(domain, size_px=DOMAINS[domain])
    path = folder / features_name(domain, seed)
    if not path.exists():
        extractor = extractor_for(DOMAINS[domain])
        features = {name: extractor.features(images) for name, images in arms(image_set, seed=seed).items()}
        save_file(features, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
        print(f"{domain}: features", flush=True)
    return {"data_digest": image_set.digest, "dropped": f"{1 - float(kept_after_drop(image_set).double().mean()):.1%}"}


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["## As autopv measures", ""]
    lines.append(
        "| domain | n | fd: right order | mean | prefers to real | kid: right order | mean | prefers to real |"
    )
    lines[-1] += " lead of fd | better | autopv |"
    lines.append("|" + "---|" * 11)
    for row in result["rows"]:
        found = row["verdict"]
        cells = [row["domain"], row["n"]]
        for distance in ("fd", "kid"):
            side = found[distance]
            preferred = ", ".join(f"{name} ({value:.2f})" for name, value in side["prefers_to_real"].items())
            cells += [f"{side['right_order']:.1%} ({side['method']})", f"{side['mean']:.2f}", preferred or "-"]
        cells += [f"{found['fd_lead']:+.1%} ± {found['standard_error']:.1%}", found["better"], found["autopv"]]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    for row in result["rows"]:
        names = list(row["methods"]["fd"]["discriminability"])
        lines += ["", f"## {row['domain']}, n = {row['n']}", ""]
        lines += [
            "| method | floor | " + " | ".join(names) + " | mean | right order |",
            "|" + "---|" * (len(names) + 4),
        ]
        for method, figures in row["methods"].items():
            cells = [f"{figures['discriminability'][name]:.2f}" for name in names]
            cells += [f"{figures['mean']:.2f}", f"{figures['right_order']:.1%}"]
            lines.append(f"| {method} | {figures['floor']:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redraws", type=int, default=200, help="of all images, at each domain and n (default 200)")
    parser.add_argument("--nums-real", type=int, nargs="+", default=NUMS_REAL, help="real images a side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/few_images"))
    parser.add_argument("--out", type=Path, default=HERE, help="folder of result.json and table.md (default: this one)")
    options = parser.parse_args()
    require_one_thread()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    versions = environment(budget_device="cpu")
    domains = {domain: extract(domain, options.work, seed=options.seed) for domain in DOMAINS}
    paths = {
        (domain, n): options.work / f"{domain}-n{n}-redraws{options.redraws}-seed{options.seed}.json"
        for domain in DOMAINS
        for n in options.nums_real
    }
    jobs = [
        (domain, n, options.redraws, options.seed, str(path))
        for (domain, n), path in paths.items()
        if not path.exists()
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        pool.map(study, jobs, chunksize=1)
    rows = [json.loads(path.read_text()) for path in paths.values() if path.exists()]
    extractor = extractor_for(min(DOMAINS.values()))
    result = {
        "domains": {domain: {"size_px": DOMAINS[domain], **about} for domain, about in domains.items()},
        "extractor": EXTRACTOR,
        "extractor_digest": extractor.digest,
        "input_size_px": extractor.input_size_px,
        "seed": options.seed,
        "redraws": options.redraws,
        "versions": versions,
        "rows": rows,
    }
    (options.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    (options.out / "table.md").write_text(table(result))


if __name__ == "__main__":
    main()
