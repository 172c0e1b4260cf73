"""Defects painted on a grey photograph, with the exact pixels they touch."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

# A fainter trace of paint is left away, so that a mask holds nothing that cannot be seen.
_FAINTEST = 0.15
# Mortar is this much brighter than the bricks, which are the middle grey of every crop.
_MORTAR = 1.22
# Of the image: a fragment is no brick, and of a larger one too little else would be left.
_BRICK_SHARES = (0.03, 0.4)
_ATTEMPTS = 20

# Grey of the paint in [0, 1], and how much of it covers each pixel.
_Paint = tuple[NDArray[np.float64], NDArray[np.float64]]


def defect_names() -> tuple[str, ...]:
    """The names that `paint_defect` knows."""
    return tuple(_PAINTERS)


def paint_defect(
    name: str, *, image_HW: NDArray[np.float64], random: RandomState
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The square image (float in [0, 1]) with one defect, and the mask of the pixels that it changed."""
    grey, cover = _PAINTERS[name](image_HW, random)
    cover = np.where(cover < _FAINTEST, 0.0, cover)
    return image_HW + cover * (grey - image_HW), cover > 0


def _scratch(image_HW: NDArray[np.float64], random: RandomState) -> _Paint:
    """One to three bent strokes that thin out at their ends: bright burrs, each with a shadow along one side."""
    pixel = 1 / len(image_HW)
    heading, middle = random.uniform(0, 2 * np.pi), random.uniform(0.35, 0.65, 2)
    thickness = random.uniform(0.014, 0.024)
    core, shade = np.zeros_like(image_HW), np.zeros_like(image_HW)
    for stroke in range(random.randint(1, 4)):
        # The first is the longest; the others run roughly along it, finer.
        length = random.uniform(0.5, 0.9) * 0.6**stroke
        core_stroke, shade_stroke = _stroke(
            image_HW,
            random,
            heading=heading + random.uniform(-0.2, 0.2),
            middle=middle + (0 if stroke == 0 else random.uniform(-0.1, 0.1, 2)),
            length=length,
            thickness=max(thickness * 0.75**stroke, pixel),
        )
        core, shade = np.maximum(core, core_stroke), np.maximum(shade, shade_stroke)
    # Pressure varies along the way, so the burr is broken here and there.
    core *= 0.55 + 0.45 * _noise(image_HW, random, cells=10)
    bright, dark = random.uniform(0.85, 1.0), 0.1
    cover = np.maximum(core, 0.55 * shade)
    return dark + (bright - dark) * core / np.maximum(cover, 1e-9), cover


def _stroke(
    image_HW: NDArray[np.float64],
    random: RandomState,
    *,
    heading: float,
    middle: NDArray[np.float64],
    length: float,
    thickness: float,
) -> _Paint:
    """How much of each pixel one stroke covers, and the shadow beside it."""
    y, x = _grid(image_HW)
    pixel, pieces = 1 / len(image_HW), 8
    headings = heading + np.cumsum(random.uniform(-0.14, 0.14, pieces))
    steps = length / pieces * np.stack([np.sin(headings), np.cos(headings)], axis=1)
    corners = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    corners += middle - corners.mean(axis=0)
    core, shade = np.zeros_like(image_HW), np.zeros_like(image_HW)
    for piece, ((top, left), (down, right)) in enumerate(zip(corners[:-1], steps, strict=True)):
        along = (((y - top) * down + (x - left) * right) / (length / pieces) ** 2).clip(0, 1)
        off_y, off_x = y - top - along * down, x - left - along * right
        distance = np.sqrt(off_y**2 + off_x**2)
        # A sine over the length: full width in the middle, a hair at the ends.
        half = thickness / 2 * np.sqrt(np.sin(np.pi * (0.08 + 0.84 * (piece + along) / pieces)))
        inside = (half - distance) / pixel + 0.5
        core = np.maximum(core, inside)
        shade = np.maximum(shade, np.where(off_y * right > off_x * down, inside + 1.2, -1.0))
    return core.clip(0, 1), shade.clip(0, 1)


def _hole(image_HW: NDArray[np.float64], random: RandomState) -> _Paint:
    """A dark pit whose far wall catches the light."""
    depth, away_y, away_x, radius = _blob(image_HW, random, radii=(0.07, 0.15), reach=0.3, ragged=0.25)
    light = random.uniform(0, 2 * np.pi)
    wall = ((away_y * np.sin(light) + away_x * np.cos(light)) / radius).clip(0, 1) ** 2
    grey = 0.05 + 0.5 * wall + 0.06 * _noise(image_HW, random, cells=12)
    return grey, (depth * len(image_HW) / 1.5 + 0.5).clip(0, 1)


def _stain(image_HW: NDArray[np.float64], random: RandomState) -> _Paint:
    """A soft-edged dark patch through which the surface still shows, darkest at its rim, as where a liquid dried."""
    depth, _, _, radius = _blob(image_HW, random, radii=(0.16, 0.28), reach=0.25, ragged=0.2)
    cover = (depth / (0.15 * radius)).clip(0, 1)
    rim = np.exp(-(((depth / radius) - 0.15) ** 2) / 0.008)
    strength = random.uniform(0.3, 0.5)
    uneven = 0.75 + 0.35 * _noise(image_HW, random, cells=5)
    return image_HW * (1 - strength * (uneven + 0.25 * rim)).clip(0, 1), cover


def _missing(image_HW: NDArray[np.float64], random: RandomState) -> _Paint:
    """One brick gone: a bed of dark sand, in shadow along one side."""
    bricks = image_HW < _MORTAR * np.median(image_HW)
    gone = bricks
    for attempt in range(_ATTEMPTS):
        # First in the middle; where one brick fills that, anywhere.
        margin = len(bricks) // 4 if attempt < _ATTEMPTS // 2 else 0
        row, column = random.randint(margin, len(bricks) - margin, 2)
        found = _connected(bricks, row=int(row), column=int(column))
        if found.mean() < _BRICK_SHARES[0]:
            continue
        gone = found if found.mean() < gone.mean() else gone
        if gone.mean() <= _BRICK_SHARES[1]:
            break
    smooth = _mean3(gone.astype(np.float64))
    # Sunlight comes from one side: the pit's edge there keeps a strip of it dark.
    strip = max(2, len(image_HW) // 24)
    shadow = gone & ~np.roll(gone, strip, axis=1)
    grain = 0.07 * _noise(image_HW, random, cells=8) + 0.08 * random.uniform(-0.5, 0.5, image_HW.shape)
    return 0.16 + grain - 0.08 * _mean3(shadow.astype(np.float64)), (1.5 * smooth).clip(0, 1)


def _bare(image_HW: NDArray[np.float64], random: RandomState) -> _Paint:
    """A frayed patch of bare pale soil."""
    depth, _, _, radius = _blob(image_HW, random, radii=(0.14, 0.26), reach=0.25, ragged=0.25)
    frayed = depth + 0.35 * radius * (_noise(image_HW, random, cells=24) - 0.5)
    soil = 0.58 + 0.14 * (_noise(image_HW, random, cells=10) - 0.5) + 0.1 * random.uniform(-0.5, 0.5, image_HW.shape)
    return soil, (frayed * len(image_HW) / 3 + 0.5).clip(0, 1)


def _leaf(image_HW: NDArray[np.float64], random: RandomState) -> _Paint:
    """A pale leaf that fell there: two arcs, a dark midrib, side veins."""
    y, x = _grid(image_HW)
    turn, half = random.uniform(0, 2 * np.pi), random.uniform(0.17, 0.26)
    centre_y, centre_x = random.uniform(0.3, 0.7, 2)
    along = ((y - centre_y) * np.sin(turn) + (x - centre_x) * np.cos(turn)) / half
    across = ((y - centre_y) * np.cos(turn) - (x - centre_x) * np.sin(turn)) / half
    width = random.uniform(0.38, 0.55)
    edge = width * (1 - along**2) * (1 + 0.25 * along)
    depth = (edge - np.abs(across)) * half
    depth = np.where(np.abs(along) < 1, depth, -1.0)
    rib = np.exp(-((across / 0.045) ** 2))
    veins = np.maximum(np.cos((along - 0.6 * np.abs(across)) * 22), 0) ** 6
    grey = 0.86 + 0.08 * np.sign(across) * np.minimum(np.abs(across) / 0.1, 1) - 0.35 * rib - 0.1 * veins
    return grey, (depth * len(image_HW) + 0.5).clip(0, 1)


def _grid(image_HW: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Row (S, 1) and column (1, S) of the pixels' centres, as shares of the side."""
    places = (np.arange(len(image_HW)) + 0.5) / len(image_HW)
    return places[:, None], places[None, :]


def _blob(
    image_HW: NDArray[np.float64], random: RandomState, *, radii: tuple[float, float], reach: float, ragged: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """How deep inside a rounded, irregular outline each pixel lies; its offsets from the middle; the mean radius.

    reach: how far the blob's middle may lie from the image's, along each axis.
    """
    y, x = _grid(image_HW)
    radius = random.uniform(*radii)
    centre_y, centre_x = random.uniform(0.5 - reach, 0.5 + reach, 2)
    away_y, away_x = np.broadcast_arrays(y - centre_y, x - centre_x)
    angle = np.arctan2(away_y, away_x)
    outline = np.ones_like(angle)
    for waves in (2, 3, 4, 5, 7):
        outline += ragged / waves * random.uniform(0.3, 1.0) * np.cos(waves * angle + random.uniform(0, 2 * np.pi))
    return radius * outline - np.sqrt(away_y**2 + away_x**2), away_y, away_x, radius


def _noise(image_HW: NDArray[np.float64], random: RandomState, *, cells: int) -> NDArray[np.float64]:
    """Smooth noise in [0, 1]: random values on a grid of cells, blended between."""
    values = random.uniform(0, 1, (cells + 1, cells + 1))
    places = (np.arange(len(image_HW)) + 0.5) / len(image_HW) * cells
    whole = places.astype(int)
    part = places - whole
    part = part * part * (3 - 2 * part)
    rows = values[whole] * (1 - part)[:, None] + values[whole + 1] * part[:, None]
    return np.asarray(rows[:, whole] * (1 - part) + rows[:, whole + 1] * part)


def _connected(inside: NDArray[np.bool_], *, row: int, column: int) -> NDArray[np.bool_]:
    """The part of `inside` that hangs together with one of its pixels; empty where that pixel is outside."""
    found = np.zeros_like(inside)
    found[row, column] = inside[row, column]
    while True:
        grown = found.copy()
        grown[1:] |= found[:-1]
        grown[:-1] |= found[1:]
        grown[:, 1:] |= found[:, :-1]
        grown[:, :-1] |= found[:, 1:]
        grown &= inside
        if (grown == found).all():
            return found
        found = grown


def _mean3(values_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    padded = np.pad(values_HW, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9)


_PAINTERS: Mapping[str, Callable[[NDArray[np.float64], RandomState], _Paint]] = {
    "bare": _bare,
    "hole": _hole,
    "leaf": _leaf,
    "missing": _missing,
    "scratch": _scratch,
    "stain": _stain,
}
