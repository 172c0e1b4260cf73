"""Draws every op at five magnitudes on real images, and writes the page that shows them (README.md) here."""

import inspect
from pathlib import Path

import torch
from torch import Tensor

from autopv.data.images import load_images
from autopv.data.pictures import image_grid, save_png
from autopv.data.tensors import to_float
from autopv.policy import Policy
from autopv.policy.ops import Op
from autopv.report.op_table import grouped_ops, op_markdown
from autopv.report.preview import write_preview

HERE = Path(__file__).parent
SIZE_PX = 64
SCALE = 2
NUM_MAGNITUDES = 5
NUM_DONORS = 16

HEAD = """# What does each corruption look like?

**Question.** What does every op do to real images, from its smallest magnitude to its largest?

**Command** (a few seconds; draws the pictures and writes this page):

    uv run python experiments/op_gallery/run.py

Left the image, then five magnitudes from the op's lowest to its highest, evenly spaced on a logarithmic scale, by one
random draw each (as with shared randomness: what is drawn grows). The images are crops of the textures that
scikit-image ships (CC0), with defects drawn into them by the demo set `textures`. `autopv ops OP` prints the same text.

## Whole policies

"""
TABLE_HEAD = """
## What is built on what, and why

"""
NUM_VIDEOS = 4


def images_and_masks() -> tuple[Tensor, Tensor, Tensor]:
    """Three textures with a defect each, its masks, and other images to take from."""
    image_set = load_images("textures", size_px=SIZE_PX, channels=3)
    assert image_set.labels is not None
    assert image_set.masks_NHW is not None
    textures = sorted({name.split("/")[0] for name in image_set.class_names})
    defective = image_set.masks_NHW.flatten(1).float().mean(dim=1)
    chosen = []
    for texture in textures:
        members = [i for i, label in enumerate(image_set.labels) if image_set.class_names[label].startswith(texture)]
        chosen.append(max(members, key=lambda i: float(defective[i])))
    donors = torch.arange(NUM_DONORS) * len(image_set) // NUM_DONORS
    return (
        to_float(image_set.images_NCHW[chosen]),
        image_set.masks_NHW[chosen],
        to_float(image_set.images_NCHW[donors]),
    )


def draw(op: Op, images_BCHW: Tensor, *, masks_BHW: Tensor, donors_NCHW: Tensor) -> list[float]:
    """Writes the op's picture; returns the magnitudes in it."""
    ratio = (op.high / op.low) ** (1 / (NUM_MAGNITUDES - 1))
    magnitudes = [min(op.low * ratio**i, op.high) for i in range(NUM_MAGNITUDES)]
    batch, channels, height, width = images_BCHW.shape
    drawn = op.draw(
        (batch, channels, height, width), generator=torch.Generator().manual_seed(2), device=images_BCHW.device
    )
    prepared = op.prepare(images_BCHW, masks_BHW=masks_BHW, donors_NCHW=donors_NCHW)
    steps = [op.corrupt(images_BCHW, {**drawn, **prepared}, source=0.0, target=m).clamp(0, 1) for m in magnitudes]
    rows_NCHW = torch.stack([images_BCHW, *steps], dim=1).flatten(0, 1)
    save_png(HERE / f"{op.name}.png", image_grid(rows_NCHW, columns=NUM_MAGNITUDES + 1, scale=SCALE))
    return magnitudes


def draw_video(path: Path) -> str:
    """Draws a policy's videos, as a picture and as an animation; returns the section of the page about it."""
    policy = Policy.load(path)
    image_set = load_images("textures", size_px=SIZE_PX)
    for suffix in (".png", ".webp"):
        write_preview(policy, image_set, path.with_suffix(suffix), num_images=NUM_VIDEOS)
    command = f"autopv preview --policy {path.name} --data textures -n {NUM_VIDEOS} --out {path.stem}.webp"
    return f"`{policy.describe()}`, by `{command}`:\n\n![{path.stem}]({path.stem}.webp)\n\n"


def main() -> None:
    images_BCHW, masks_BHW, donors_NCHW = images_and_masks()
    page = HEAD + "".join(draw_video(path) for path in sorted(HERE.glob("*.json"))) + TABLE_HEAD + op_markdown()
    group = ""
    for op in grouped_ops():
        magnitudes = draw(op, images_BCHW, masks_BHW=masks_BHW, donors_NCHW=donors_NCHW)
        if op.group != group:
            group = op.group
            page += f"\n## {group.capitalize()}\n"
        shown = ", ".join(f"{m:.3g}" for m in magnitudes)
        page += f"\n### {op.name}\n\n{inspect.getdoc(type(op))}\n\n`{op.magnitude_name}` {shown} ({op.unit}).\n\n"
        page += f"![{op.name} at five magnitudes]({op.name}.png)\n"
    (HERE / "README.md").write_text(page)


if __name__ == "__main__":
    main()
