"""The picture of a profile: example videos on top, and under every frame its charts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from autopv.data.pictures import save_png
from autopv.data.tensors import to_float, to_uint8
from autopv.profile.profile import PolicyProfile
from autopv.profile.table import what_is_added

_LEFT, _RIGHT, _MARGIN = 60, 190, 16
_CHART_HEIGHT, _TITLE_HEIGHT, _CHART_GAP = 150, 26, 18
_GAP = 4
# Columns are as wide as this total allows, within bounds.
_COLUMNS_WIDTH, _MIN_COLUMN, _MAX_COLUMN = 840, 24, 140
_LEAST_LABEL_PX = 22
# Steps between ticks: distances may be large where the images are nearly alike.
_STEPS = tuple(digit * 10.0**power for power in range(-2, 9) for digit in (1, 2, 5))
# Lines and text are drawn so many times larger and reduced: Pillow does not smooth lines.
_FINE = 3
_TEXT, _SMALL, _LINE = 13, 11, 18
_INK, _PALE, _GRID = (40, 40, 40), (110, 110, 110), (225, 225, 225)
# Okabe and Ito's palette: told apart by colour-blind readers too.
_BLUE, _ORANGE = (0, 114, 178), (213, 94, 0)
# From low to high frequency, dark to light (viridis).
_LOW_TO_HIGH = ((68, 1, 84), (62, 74, 137), (38, 130, 142), (53, 183, 121), (160, 200, 40), (235, 180, 20))


Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class _Line:
    label: str
    colour: Colour
    values: Sequence[float]
    """From frame 1 on; one per column, or one fewer where the image has no value."""
    errors: Sequence[float] | None = None
    hollow: bool = False


@dataclass(frozen=True, kw_only=True)
class _Chart:
    title: str
    lines: Sequence[_Line]
    low: float
    high: float


def draw_profile(profile: PolicyProfile, path: str | Path) -> None:
    """Writes the picture (PNG): one strip per example video, frames left to right, then the charts.

    The image's own column holds what is so by definition: distance 0, everything kept, everything explained.
    """
    examples_BTCHW = profile.examples_BTCHW
    batch, num_frames = examples_BTCHW.shape[:2]
    column = min(_MAX_COLUMN, max(_MIN_COLUMN, _COLUMNS_WIDTH // num_frames))
    tiles = _tiles(examples_BTCHW, width=column - _GAP)
    tile_height = tiles[0][0].shape[0]
    width = _LEFT + column * num_frames + _RIGHT
    heading = _heading(profile, width=width - 2 * _MARGIN)
    strip_top = _MARGIN + len(heading) * _LINE + 8 + _TITLE_HEIGHT
    charts_top = strip_top + batch * (tile_height + _GAP) + 8
    charts = _charts(profile)
    height = charts_top + len(charts) * (_TITLE_HEIGHT + _CHART_HEIGHT + _CHART_GAP) + _LINE // 2 + _MARGIN
    canvas = Image.new("RGB", (width * _FINE, height * _FINE), (255, 255, 255))
    pen = _Pen(ImageDraw.Draw(canvas))
    for row, (line, colour) in enumerate(heading):
        pen.text((_MARGIN, _MARGIN + row * _LINE), line, colour=colour, anchor="la")
    centres = [_LEFT + column * (t + 0.5) for t in range(num_frames)]
    for name, x in _frame_names(num_frames, centres, column=column):
        for baseline in (strip_top - 6, height - _MARGIN):
            pen.text((x, baseline), name, colour=_INK, anchor="ms")
    for index, chart in enumerate(charts):
        top = charts_top + index * (_TITLE_HEIGHT + _CHART_HEIGHT + _CHART_GAP)
        pen.text((_LEFT, top + _TITLE_HEIGHT - 9), chart.title, colour=_INK, anchor="ls")
        _draw_chart(pen, chart, top=top + _TITLE_HEIGHT, centres=centres, right=width - _RIGHT)
    picture = np.array(canvas.reduce(_FINE))
    for row, frames in enumerate(tiles):
        top = strip_top + row * (tile_height + _GAP)
        for t, tile_HWC in enumerate(frames):
            left = _LEFT + column * t + (column - tile_HWC.shape[1]) // 2
            picture[top : top + tile_height, left : left + tile_HWC.shape[1]] = tile_HWC
    save_png(path, picture)


class _Pen:
    """Draws in the picture's pixels on the larger canvas."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self._draw = draw
        self._fonts = {size: ImageFont.load_default(size * _FINE) for size in (_TEXT, _SMALL)}

    def text(self, at: tuple[float, float], text: str, *, colour: Colour, anchor: str, size: int = _TEXT) -> None:
        self._draw.text((at[0] * _FINE, at[1] * _FINE), text, fill=colour, font=self._fonts[size], anchor=anchor)

    def line(self, points: Sequence[tuple[float, float]], *, colour: Colour, width: float) -> None:
        scaled = [(x * _FINE, y * _FINE) for x, y in points]
        self._draw.line(scaled, fill=colour, width=round(width * _FINE), joint="curve")

    def dot(self, at: tuple[float, float], *, colour: Colour, radius: float, hollow: bool) -> None:
        x, y = at[0] * _FINE, at[1] * _FINE
        r = radius * _FINE
        fill = (255, 255, 255) if hollow else colour
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=fill, outline=colour, width=round(1.5 * _FINE))


def _draw_chart(pen: _Pen, chart: _Chart, *, top: float, centres: Sequence[float], right: float) -> None:
    bottom = top + _CHART_HEIGHT

    def height_of(value: float) -> float:
        share = (min(max(value, chart.low), chart.high) - chart.low) / (chart.high - chart.low)
        return bottom - share * _CHART_HEIGHT

    ticks, decimals = _ticks(chart.low, chart.high)
    for tick in ticks:
        pen.line([(_LEFT, height_of(tick)), (right, height_of(tick))], colour=_GRID, width=1)
        pen.text((_LEFT - 8, height_of(tick)), f"{tick:.{decimals}f}", colour=_PALE, anchor="rm", size=_SMALL)
    pen.line([(_LEFT, top), (_LEFT, bottom), (right, bottom)], colour=_PALE, width=1)
    for x in centres:
        pen.line([(x, bottom), (x, bottom + 4)], colour=_PALE, width=1)
    for line in chart.lines:
        points = [(x, height_of(value)) for x, value in zip(centres, line.values, strict=False)]
        if len(points) > 1:
            pen.line(points, colour=line.colour, width=2)
        for i, error in enumerate(line.errors or ()):
            x, value = points[i][0], line.values[i]
            pen.line(
                [(x, height_of(value - 2 * error)), (x, height_of(value + 2 * error))], colour=line.colour, width=1
            )
        for point in points:
            pen.dot(point, colour=line.colour, radius=3.5, hollow=line.hollow)
    for i, line in enumerate(chart.lines):
        y = top + 10 + i * 20
        pen.line([(right + 14, y), (right + 38, y)], colour=line.colour, width=2)
        pen.dot((right + 26, y), colour=line.colour, radius=3.5, hollow=line.hollow)
        pen.text((right + 46, y), line.label, colour=_INK, anchor="lm", size=_SMALL)


def _charts(profile: PolicyProfile) -> list[_Chart]:
    frames, last = profile.frames, profile.frames[-1].frame
    distances = [_Line(label="pixels", colour=_BLUE, values=[*(f.pixel_distance for f in frames), 0.0])]
    features = [f.feature_distance for f in frames if f.feature_distance is not None]
    if features:
        label = f"{profile.extractor} features"
        distances.append(_Line(label=label, colour=_ORANGE, values=[*features, 0.0], hollow=True))
    together = _Line(
        label=f"from here to frame {last}",
        colour=_ORANGE,
        values=[f.joint for f in frames],
        errors=[f.gain_se for f in frames],
        hollow=True,
    )
    alone = _Line(
        label="this frame alone",
        colour=_BLUE,
        values=[*(f.alone for f in frames), 1.0],
        errors=[f.alone_se for f in frames],
    )
    side = 2 * profile.radius + 1
    edges = [f"{edge:g}" for edge in profile.band_edges[:-1]]
    bands = [f"{low} to {high}" for low, high in pairwise(edges)] + [f"{edges[-1]} and more"]
    kept = [
        _Line(label=band, colour=_LOW_TO_HIGH[_spread(i, len(bands))], values=[*(f.kept[i] for f in frames), 1.0])
        for i, band in enumerate(bands)
    ]
    far = max(value for line in distances for value in line.values)
    return [
        _Chart(
            title="Distance from the image (1 = another image)", lines=distances, low=0.0, high=max(1.0, far * 1.05)
        ),
        _Chart(
            title=f"Share of the image explained (R2) by a linear probe of {side} x {side} px, held out",
            lines=[alone, together] if last > 1 else [alone],
            low=_floor(min(line.values[i] for line in (alone, together) for i in range(last))),
            high=1.0,
        ),
        _Chart(
            title="Share of the image's variance kept, by frequency in cycles per side", lines=kept, low=0.0, high=1.0
        ),
    ]


def _heading(profile: PolicyProfile, *, width: int) -> list[tuple[str, Colour]]:
    """The policy, what it was measured on and what the early frames add, in lines that fit, with their colours."""
    measured = (
        f"{profile.num_images} images of {profile.width_px} x {profile.height_px} px, seed {profile.seed}; "
        f"bars: two standard errors; policy {profile.policy_digest[:8]}"
    )
    texts = ((profile.policy, _INK), (measured, _PALE), (what_is_added(profile), _PALE))
    return [(line, colour) for text, colour in texts for line in _wrapped(text, width=width)]


def _wrapped(text: str, *, width: int) -> list[str]:
    font = ImageFont.load_default(_TEXT)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _frame_names(num_frames: int, centres: Sequence[float], *, column: int) -> list[tuple[str, float]]:
    """The names over the columns, thinned out where they would touch."""
    every = math.ceil(_LEAST_LABEL_PX / column)
    names = [(str(t + 1), centres[t]) for t in range(0, num_frames - 1, every)]
    image = ("image", centres[-1])
    # The word is wider than a narrow column.
    return [name for name in names if image[1] - name[1] > 34] + [image]


def _tiles(examples_BTCHW: Tensor, *, width: int) -> list[list[NDArray[np.uint8]]]:
    """The frames as pictures (H, W, 3) of at most `width`: small ones by whole squares, large ones reduced."""
    batch, num_frames, _, height, side = examples_BTCHW.shape
    frames = to_float(examples_BTCHW.flatten(0, 1))
    if side <= width:
        frames = F.interpolate(frames, scale_factor=width // side, mode="nearest")
    else:
        frames = F.interpolate(frames, size=(round(height * width / side), width), mode="bilinear", antialias=True)
    pictures = to_uint8(frames).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    return [list(pictures[row * num_frames : (row + 1) * num_frames]) for row in range(batch)]


def _ticks(low: float, high: float) -> tuple[list[float], int]:
    """At most eight round values within the bounds, and the decimals that they need."""
    step = next(step for step in _STEPS if (high - low) / step <= 7)
    decimals = max(0, -math.floor(math.log10(step) + 1e-6))
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [i * step for i in range(first, last + 1)], decimals


def _floor(value: float) -> float:
    """Where an axis up to 1 starts, so that the lines fill it."""
    return max((floor for floor in (0.0, 0.5, 0.8, 0.9, 0.95) if floor <= value), default=0.0)


def _spread(index: int, count: int) -> int:
    return round(index * (len(_LOW_TO_HIGH) - 1) / max(1, count - 1))
