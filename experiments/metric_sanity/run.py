"""Measures every metric over rising corruption of real images; writes result.json and table.md here.

The figures of each setting are kept in --work as soon as they are made: run the command again to go on.
"""

import argparse
import json
import multiprocessing
import re
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autopv.data.images import ImageSet, load_images
from autopv.metrics.estimate import Estimate
from autopv.metrics.extractors import load_extractor
from autopv.metrics.metric import as_float, default_input_size_px, estimate_of_features
from autopv.metrics.neighbours import neighbourhoods
from autopv.policy.ops import get_op
from autopv.search.environment import environment

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread

HERE = Path(__file__).parent
EXTRACTOR = "lite0"
SETTINGS = (("elpv", 16), ("elpv", 64), ("textures", 64))
"""Demo sets, and the side they are loaded at."""
STRENGTHS = {
    "gaussian_blur": (0.01, 0.02, 0.03, 0.045, 0.07, 0.1),
    "gaussian_noise": (0.01, 0.02, 0.04, 0.08, 0.16, 0.32),
    "jpeg": (0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
    "contrast": (0.05, 0.1, 0.2, 0.35, 0.5, 0.75),
}
"""From hardly visible to destroyed, in the units of `autopv policy ops`."""
CLASSES_LEFT_OUT, KIND_LEFT_OUT = "classes left out", "a kind left out"
LEFT_OUT = (CLASSES_LEFT_OUT, KIND_LEFT_OUT)
"""Their strength is the share of all images that is never generated."""
KIND_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the rarest kind: brick, grass or gravel, mono- or polycrystalline."""
WORSE = {"fd_lite0": 1, "kid_lite0": 1, "precision": -1, "recall": -1, "density": -1, "coverage": -1}
"""Every metric, and which way it goes when images get worse."""
FLOOR = "floor"
STANDARD_ERRORS = 2
"""From here on a difference counts."""


Figures = dict[str, Estimate]
Ladder = list[tuple[float, list[Figures]]]
"""For each strength the figures of every split."""


@dataclass(frozen=True, eq=False)
class Sides:
    """One split: image numbers of the reference, and of the other half in random order (its first n are the floor)."""

    reference_N: Tensor
    other_N: Tensor


def halves(image_set: ImageSet, *, n: int, seed: int) -> Sides:
    """Disjoint halves of the set; images of one object are never on both."""
    generator = torch.Generator().manual_seed(seed)
    groups = sorted(set(image_set.groups))
    order = torch.randperm(len(groups), generator=generator).tolist()
    first = {groups[number] for number in order[: len(groups) // 2]}
    in_first = torch.tensor([group in first for group in image_set.groups])
    one, other = in_first.nonzero().flatten(), (~in_first).nonzero().flatten()
    shuffled = [side[torch.randperm(len(side), generator=generator)] for side in (one, other)]
    return Sides(reference_N=shuffled[0][:n], other_N=shuffled[1])


def rarest_first(image_set: ImageSet) -> list[int]:
    """The classes in the order in which they are left out."""
    counts = Counter(image_set.labels)
    return sorted(counts, key=lambda label: (counts[label], label))


def rarest_kind(image_set: ImageSet) -> tuple[str, Tensor]:
    """What the names of several classes begin with, and its images in random order."""
    kind_of = {label: re.split("[ /]", name)[0] for label, name in enumerate(image_set.class_names)}
    kinds = [kind_of[label] for label in image_set.labels or ()]
    rarest = min(sorted(set(kinds)), key=kinds.count)
    members_N = torch.tensor([kind == rarest for kind in kinds]).nonzero().flatten()
    return rarest, members_N[torch.randperm(len(members_N), generator=torch.Generator().manual_seed(0))]


def losses(image_set: ImageSet) -> dict[str, list[Tensor]]:
    """Which images (N, bool) are never generated, more and more of them."""
    labels_N, order = torch.tensor(image_set.labels), rarest_first(image_set)
    _, members_N = rarest_kind(image_set)
    numbers_N = torch.arange(len(image_set))
    return {
        CLASSES_LEFT_OUT: [torch.isin(labels_N, torch.tensor(order[:count])) for count in range(1, len(order))],
        KIND_LEFT_OUT: [torch.isin(numbers_N, members_N[: round(share * len(members_N))]) for share in KIND_SHARES],
    }


def measure(real_ND: Tensor, flawed_ND: Tensor, *, reference_N: Tensor, generated_N: Tensor) -> Figures:
    """Every metric of the numbered images; features are those of the whole set, real and flawed.

    Influences are spread over the whole set too, so that what two figures share is paired.
    """

    def spread(influences_n: Tensor, rows_n: Tensor) -> Tensor:
        return torch.zeros(len(real_ND), dtype=torch.float64).index_put((rows_n,), influences_n.double())

    found = {}
    for distance in ("fd", "kid"):
        value, of_real, of_generated = estimate_of_features(
            real_ND[reference_N], flawed_ND[generated_N], distance=distance
        )
        sides = {"reference": spread(of_real, reference_N), "generated": spread(of_generated, generated_N)}
        found[f"{distance}_lite0"] = Estimate(value, sides)
    near = neighbourhoods(real_ND[reference_N], flawed_ND[generated_N])
    for name, values, side, rows in (
        ("precision", near.precision_M, "generated", generated_N),
        ("recall", near.recall_N, "reference", reference_N),
        ("density", near.density_M, "generated", generated_N),
        ("coverage", near.coverage_N, "reference", reference_N),
    ):
        mean = Estimate.of_mean(values, name=side)
        found[name] = Estimate(mean.value, {side: spread(mean.influences[side], rows)})
    return found


def renamed(estimate: Estimate, names: Mapping[str, str]) -> Estimate:
    """The estimate with its sets called otherwise: sets of one name are paired, of two names independent."""
    total = Estimate(estimate.value, {})
    for name, influences in estimate.influences.items():
        total = total + Estimate(0.0, {names.get(name, name): influences})
    return total


def study(job: tuple[str, int, int, int, str]) -> None:
    """All figures of one setting, written into the work folder."""
    data, size_px, most, num_splits, path = job
    torch.set_num_threads(1)
    image_set = load_images(data, size_px=size_px)
    images_NCHW = as_float(image_set.images_NCHW)
    # Half of the other half at most: the rest stands in for what is left out.
    n = min(most, len(images_NCHW) // 4)
    extractor = load_extractor(EXTRACTOR, input_size_px=default_input_size_px(EXTRACTOR, image_size_px=size_px))
    splits = [halves(image_set, n=n, seed=seed) for seed in range(num_splits)]
    real_ND = extractor.features(images_NCHW)

    def measured(flawed_ND: Tensor, chosen: Sequence[Tensor]) -> list[Figures]:
        return [
            measure(real_ND, flawed_ND, reference_N=sides.reference_N, generated_N=generated_N)
            for sides, generated_N in zip(splits, chosen, strict=True)
        ]

    usual = [sides.other_N[:n] for sides in splits]
    used_N = torch.cat(usual).unique()  # type: ignore[no-untyped-call]
    floor = measured(real_ND, usual)
    ladders: dict[str, Ladder] = {}
    for name, strengths in STRENGTHS.items():
        ladders[name] = []
        for strength in strengths:
            flawed_ND = torch.zeros_like(real_ND)
            flawed_ND[used_N] = extractor.features(corrupted(images_NCHW, name, strength)[used_N])
            ladders[name].append((strength, measured(flawed_ND, usual)))
        print(f"{data} {size_px} px: {name}", flush=True)
    for name, lost in losses(image_set).items():
        ladders[name] = []
        for lost_N in lost:
            left = [sides.other_N[~lost_N[sides.other_N]] for sides in splits]
            if min(map(len, left)) >= n:
                ladders[name].append((float(lost_N.double().mean()), measured(real_ND, [rows[:n] for rows in left])))
    row = {
        "data": data,
        "size_px": size_px,
        "data_digest": image_set.digest,
        "extractor_digest": extractor.digest,
        "input_size_px": extractor.input_size_px,
        "n": n,
        "classes_left_out_in_turn": [image_set.class_names[label] for label in rarest_first(image_set)],
        "kind_left_out": rarest_kind(image_set)[0],
        **told(ladders, floor),
    }
    partial = Path(path).with_suffix(".part")
    partial.write_text(json.dumps(row))
    partial.replace(path)
    print(f"{data} {size_px} px: done", flush=True)


def corrupted(images_NCHW: Tensor, name: str, strength: float) -> Tensor:
    """The images at one strength; a random op draws the same at every strength: the same noise, only stronger."""
    op = get_op(name)
    num, channels, height, width = images_NCHW.shape
    generator = torch.Generator().manual_seed(0)
    draw = op.draw((num, channels, height, width), generator=generator, device=images_NCHW.device)
    return op.corrupt(images_NCHW, draw, source=0.0, target=strength).clamp(0, 1)


def told(ladders: Mapping[str, Ladder], floor: Sequence[Figures]) -> dict[str, Any]:
    """Figures and verdicts of all ladders, JSON-ready."""
    row: dict[str, Any] = {
        "floor": {metric: figure([one[metric] for one in floor]) for metric in WORSE},
        "corruptions": {},
        "verdicts": {},
    }
    for name, ladder in ladders.items():
        row["corruptions"][name] = [
            {"strength": round(strength, 4)}
            | {m: against_floor([one[m] for one in found], [one[m] for one in floor]) for m in WORSE}
            for strength, found in ladder
        ]
        row["verdicts"][name] = {
            m: verdict(
                [strength for strength, _ in ladder],
                [[one[m] for one in found] for found in (floor, *(found for _, found in ladder))],
                worse=worse,
            )
            for m, worse in WORSE.items()
        }
    return row


def figure(estimates: Sequence[Estimate]) -> dict[str, float]:
    """Mean over the splits, and the standard error of a single one."""
    return {
        "value": statistics.fmean(one.value for one in estimates),
        "standard_error": statistics.fmean(one.standard_error**2 for one in estimates) ** 0.5,
    }


def against_floor(flawed: Sequence[Estimate], floor: Sequence[Estimate]) -> dict[str, float]:
    """Also how many standard errors a single comparison with the floor shows, on a mean over the splits.

    The reference is shared. The generated images count as drawn apart from the floor's, as a model's are, although
    here they are the same images corrupted.
    """
    z = []
    for one, other in zip(flawed, floor, strict=True):
        difference = one - renamed(other, {"generated": "real"})
        z.append(difference.value / difference.standard_error if difference.standard_error > 0 else 0.0)
    return figure(flawed) | {"z": statistics.fmean(z)}


def verdict(strengths: Sequence[float], ladder: Sequence[Sequence[Estimate]], *, worse: int) -> dict[str, Any]:
    """Whether the metric is monotone, its steps back, and from which strength on every one is told from the floor.

    Steps compare the same images, averaged over the splits, in which they may occur several times: all of it is paired.
    """
    means = [Estimate.mean([renamed(one, dict.fromkeys(one.influences, "images")) for one in step]) for step in ladder]
    back = []
    wiggles = 0
    for strength, before, after in zip(strengths, means, means[1:], strict=False):
        step = (after - before) * worse
        if step.value < 0:
            wiggles += 1
            if step.value < -STANDARD_ERRORS * step.standard_error:
                back.append({"at": round(strength, 4), "by": step.value, "standard_error": step.standard_error})
    told = [worse * against_floor(step, ladder[0])["z"] >= STANDARD_ERRORS for step in ladder[1:]]
    better = [worse * against_floor(step, ladder[0])["z"] <= -STANDARD_ERRORS for step in ladder[1:]]
    first = next((number for number in range(len(told)) if all(told[number:])), None)
    return {
        "monotone": "no" if back else "within noise" if wiggles else "yes",
        "steps_back": back,
        "told_from": None if first is None else round(strengths[first], 4),
        "told_at": [round(strength, 4) for strength, is_told in zip(strengths, told, strict=True) if is_told],
        "taken_for_better_at": [
            round(strength, 4) for strength, is_better in zip(strengths, better, strict=True) if is_better
        ],
    }


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| setting | corruption | " + " | ".join(WORSE) + " |", "|" + "---|" * (len(WORSE) + 2)]
    for row in result["settings"]:
        for name, verdicts in row["verdicts"].items():
            cells = [brief(verdicts[metric], is_share=name in LEFT_OUT) for metric in WORSE]
            lines.append(f"| {title(row)} | {name} | " + " | ".join(cells) + " |")
    for row in result["settings"]:
        lines += ["", f"## {title(row)}, n = {row['n']} a side", ""]
        lines += ["| corruption | strength | " + " | ".join(WORSE) + " |", "|" + "---|" * (len(WORSE) + 2)]
        cells = [
            f"{shown(row['floor'][metric]['value'])} ± {shown(row['floor'][metric]['standard_error'])}"
            for metric in WORSE
        ]
        lines.append("| none: the floor | | " + " | ".join(cells) + " |")
        for name, ladder in row["corruptions"].items():
            for step in ladder:
                strength = f"{step['strength']:.1%}" if name in LEFT_OUT else f"{step['strength']:g}"
                cells = [marked(step[metric], worse=WORSE[metric]) for metric in WORSE]
                lines.append(f"| {name} | {strength} | " + " | ".join(cells) + " |")
        lines += ["", f"Classes are left out in this order: {', '.join(row['classes_left_out_in_turn'])}."]
        lines[-1] += f" The kind left out is {row['kind_left_out']}."
    return "\n".join(lines) + "\n"


def title(row: Mapping[str, Any]) -> str:
    return f"{row['data']}, {row['size_px']} px"


def brief(found: Mapping[str, Any], *, is_share: bool) -> str:
    def strength(value: float) -> str:
        return f"{value:.1%}" if is_share else f"{value:g}"

    monotone = {"yes": "monotone", "within noise": "monotone within noise", "no": "**not monotone**"}[found["monotone"]]
    if found["steps_back"]:
        monotone += f" (back at {', '.join(strength(step['at']) for step in found['steps_back'])})"
    if found["told_from"] is not None:
        told = f"told from {strength(found['told_from'])}"
    elif found["told_at"]:
        told = f"told at {', '.join(map(strength, found['told_at']))} only"
    else:
        told = "never told"
    better = found["taken_for_better_at"]
    return f"{monotone}; {told}" + (f"; **better than real at {', '.join(map(strength, better))}**" if better else "")


def marked(step: Mapping[str, float], *, worse: int) -> str:
    z = worse * step["z"]
    mark = " *" if z >= STANDARD_ERRORS else " !" if z <= -STANDARD_ERRORS else ""
    return shown(step["value"]) + mark


def shown(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=512, help="images a side, at most a quarter of the set (default 512)")
    parser.add_argument("--splits", type=int, default=8, help="halvings of each set, averaged (default 8)")
    parser.add_argument("--settings", nargs="+", help="such as elpv-16; default: all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/metric_sanity"))
    parser.add_argument("--out", type=Path, default=HERE, help="folder of result.json and table.md (default: this one)")
    options = parser.parse_args()
    require_one_thread()
    options.work.mkdir(parents=True, exist_ok=True)
    versions = environment(budget_device="cpu")
    wanted = [pair for pair in SETTINGS if not options.settings or f"{pair[0]}-{pair[1]}" in options.settings]
    paths = {
        (data, size_px): options.work / f"{data}-{size_px}-n{options.n}-splits{options.splits}.json"
        for data, size_px in wanted
    }
    # The largest images first: the other process takes the rest meanwhile.
    jobs = [
        (data, size_px, options.n, options.splits, str(path))
        for (data, size_px), path in sorted(paths.items(), key=lambda item: -item[0][1])
        if not path.exists()
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        pool.map(study, jobs, chunksize=1)
    result = {
        "extractor": EXTRACTOR,
        "splits": options.splits,
        "versions": versions,
        "settings": [json.loads(path.read_text()) for path in paths.values()],
    }
    (options.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    (options.out / "table.md").write_text(table(result))


if __name__ == "__main__":
    main()
