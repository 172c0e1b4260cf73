"""Boxes around defects by hand, defect coverage on synthetic defects, and on the texture set with a real extractor."""

import importlib.util
from itertools import combinations, pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autopv.data.images import load_images
from autopv.errors import MetricError
from autopv.evaluation.not_applicable import NotApplicable
from autopv.evaluation.regions import (
    Box,
    DefectCoverage,
    chance_covered,
    crop_features,
    defect_boxes,
    defect_coverage,
    defect_crops,
    grid_boxes,
)
from autopv.metrics.extractors import load_extractor
from autopv.metrics.features import Extractor

SIZE_PX = 32


class Levels(Extractor):
    """The levels of grey of an image, sorted: what it shows, wherever it shows it."""

    name = "levels"
    num_features = 9
    digest = "levels"

    def forward_rgb(self, images_BCHW: Tensor) -> Tensor:
        return torch.quantile(images_BCHW.flatten(1), torch.linspace(0, 1, self.num_features), dim=1).T


LEVELS = Levels(input_size_px=32)


def backgrounds(count: int, *, seed: int) -> Tensor:
    coarse = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, size=(SIZE_PX, SIZE_PX), mode="bicubic").clamp(0, 1)
    return ((0.4 + 0.2 * smooth) * 255).round().to(torch.uint8)


def with_defects(count: int, *, seed: int, level: float = 0.1) -> tuple[Tensor, Tensor]:
    """Images with a disc of about this level, and the masks of the discs."""
    images_NCHW, random = backgrounds(count, seed=seed), torch.Generator().manual_seed(seed + 1000)
    y, x = torch.meshgrid(torch.arange(SIZE_PX), torch.arange(SIZE_PX), indexing="ij")
    masks = []
    for image_CHW in images_NCHW:
        row, column = torch.randint(6, SIZE_PX - 6, (2,), generator=random).tolist()
        radius = 4.5 + float(torch.rand((), generator=random))
        mask_HW = (y - row) ** 2 + (x - column) ** 2 <= radius**2
        shade = level + 0.1 * float(torch.rand((), generator=random))
        image_CHW[:, mask_HW] = round(shade * 255)
        masks.append(mask_HW)
    return images_NCHW, torch.stack(masks)


def coverage(generated_NCHW: Tensor, *, seed: int = 0, count: int = 40, **options: object) -> DefectCoverage:
    train, train_masks = with_defects(count, seed=10 + seed)
    held_out, held_out_masks = with_defects(count, seed=500 + seed)
    found = defect_coverage(
        generated_NCHW,
        train_NCHW=train,
        train_masks_NHW=train_masks,
        held_out_NCHW=held_out,
        held_out_masks_NHW=held_out_masks,
        extractor=LEVELS,
        **options,  # type: ignore[arg-type]
    )
    assert isinstance(found, DefectCoverage)
    return found


def mask_of(*rectangles: tuple[int, int, int, int], size_px: int = 64) -> Tensor:
    """A mask (1, S, S) with rectangles: rows and columns, from and to."""
    mask_NHW = torch.zeros(1, size_px, size_px, dtype=torch.bool)
    for top, bottom, left, right in rectangles:
        mask_NHW[0, top:bottom, left:right] = True
    return mask_NHW


def test_a_box_is_centred_on_the_defect_and_half_as_wide_again() -> None:
    assert defect_boxes(mask_of((20, 40, 24, 34))) == (Box(0, 15, 14, 30),)


def test_a_box_at_the_border_is_moved_inside_the_image() -> None:
    assert defect_boxes(mask_of((54, 64, 0, 20))) == (Box(0, 34, 0, 30),)
    assert defect_boxes(mask_of((0, 64, 0, 64))) == (Box(0, 0, 0, 64),)


def test_a_speck_gets_an_eighth_of_the_image() -> None:
    assert defect_boxes(mask_of((30, 31, 30, 31))) == (Box(0, 26, 26, 8),)


def test_a_diagonal_scratch_is_one_defect() -> None:
    assert len(defect_boxes(torch.eye(64, dtype=torch.bool)[None])) == 1


def test_the_largest_defects_of_each_image_are_taken() -> None:
    many = mask_of((0, 2, 0, 2), (10, 20, 10, 20), (40, 44, 40, 44), (50, 53, 0, 3))
    boxes = defect_boxes(torch.cat([mask_of(), many]), max_per_image=2)
    assert [(box.image, box.side_px) for box in boxes] == [(1, 15), (1, 8)]
    assert len(defect_boxes(many, max_per_image=4)) == 4
    assert defect_boxes(mask_of()) == ()


@pytest.mark.parametrize(("side_px", "shape"), [(8, (64, 64)), (13, (64, 50)), (64, (64, 64)), (1, (5, 5))])
def test_the_grid_covers_every_pixel_with_boxes_that_overlap_by_half(side_px: int, shape: tuple[int, int]) -> None:
    boxes = grid_boxes(1, side_px=side_px, shape=shape)
    seen = torch.zeros(shape, dtype=torch.bool)
    for box in boxes:
        assert 0 <= box.top <= shape[0] - side_px
        seen[box.rows, box.columns] = True
    assert seen.all()
    tops = sorted({box.top for box in boxes})
    assert all(after - before <= max(1, side_px // 2) for before, after in pairwise(tops))


def test_features_of_crops_are_those_of_the_cut_images_in_the_order_of_the_boxes() -> None:
    images = backgrounds(3, seed=1)
    boxes = [Box(2, 3, 4, 20), Box(0, 0, 0, 8), Box(1, 12, 10, 20), Box(2, 24, 24, 8)]
    features = crop_features(images, boxes, extractor=LEVELS)
    for box, row in zip(boxes, features, strict=True):
        cut = images[box.image, None, :, box.top : box.top + box.side_px, box.left : box.left + box.side_px]
        assert torch.allclose(row, LEVELS.features(cut / 255)[0], atol=1e-6)
    assert torch.equal(crop_features(images / 255, boxes, extractor=LEVELS), features)
    assert crop_features(images, [], extractor=LEVELS).shape == (0, 9)


def test_defect_crops_know_their_images() -> None:
    images, masks = with_defects(4, seed=2)
    masks[1] = False
    crops = defect_crops(images, masks, extractor=LEVELS)
    assert crops.owner_of_each.tolist() == [0, 2, 3]
    assert crops.features_ND.shape == (3, 9)
    # The darkest level of each crop is its defect's.
    assert crops.features_ND[:, 0].max() < 0.25


def test_the_chance_that_some_of_the_images_cover_a_defect_is_the_share_of_all_selections() -> None:
    nearest_KN = torch.tensor([[1.0, 5.0, 2.0, 9.0, 9.0], [3.0, 3.0, 3.0, 3.0, 3.0], [9.0, 9.0, 9.0, 9.0, 9.0]])
    radii_K = torch.tensor([2.0, 3.0, 1.0])
    for num_images in range(1, 6):
        picks = [nearest_KN[:, list(chosen)] for chosen in combinations(range(5), num_images)]
        wanted = torch.stack([(pick <= radii_K[:, None]).any(dim=1).double() for pick in picks]).mean(dim=0)
        assert torch.allclose(chance_covered(nearest_KN, radii_K, num_images=num_images), wanted)


@pytest.mark.slow
def test_planted_defects_are_covered_as_real_ones_are_and_healed_or_wrong_ones_are_not() -> None:
    planted = coverage(with_defects(60, seed=3)[0], num_neighbours=3)
    healed = coverage(backgrounds(60, seed=3), num_neighbours=3)
    wrong = coverage(with_defects(60, seed=3, level=0.85)[0], num_neighbours=3)
    yardstick = float(planted.yardstick_K.mean())
    assert yardstick > 0.6
    assert float(planted.covered_K.mean()) == pytest.approx(yardstick, abs=0.1)
    for poor in (healed, wrong):
        assert float(poor.covered_K.mean()) < 0.05
    assert planted.background_K is not None
    assert float(planted.background_K.mean()) < 0.05
    # What is common to all is made from real images alone.
    assert torch.equal(planted.yardstick_K, wrong.yardstick_K)


def test_the_nearest_generated_crop_shows_the_defect() -> None:
    generated, masks = with_defects(30, seed=4)
    found = coverage(generated)
    assert len(found.nearest_boxes) == len(found.real_boxes) == len(found.covered_K)
    shown = [bool(masks[box.image, box.rows, box.columns].any()) for box in found.nearest_boxes]
    assert all(shown)
    assert (found.nearest_distance_K > 0).all()


@pytest.mark.slow
def test_a_perfect_generator_scores_the_yardstick_on_average() -> None:
    differences = []
    for seed in range(20):
        found = coverage(with_defects(30, seed=2000 + seed)[0], seed=seed, count=16)
        differences.append(float((found.covered_K - found.yardstick_K).mean()))
    spread = torch.tensor(differences)
    assert abs(float(spread.mean())) < 3 * float(spread.std()) / 20**0.5


@pytest.mark.slow
def test_more_neighbours_widen_the_radius_and_fewer_crops_compare_fewer_images() -> None:
    generated = with_defects(40, seed=5)[0]
    usual, wider = coverage(generated), coverage(generated, num_neighbours=3)
    assert float(wider.covered_K.mean()) > float(usual.covered_K.mean())
    few = coverage(generated, max_crops=500)
    assert few.num_images < usual.num_images <= 20
    assert float(few.covered_K.mean()) < float(usual.covered_K.mean())


def test_images_of_one_object_do_not_make_the_yardstick_flattering() -> None:
    images, masks = with_defects(12, seed=6)
    held_out, held_out_masks = with_defects(40, seed=7)
    views = torch.arange(12).repeat_interleave(2)

    def yardstick(groups: list[str] | None) -> float:
        found = defect_coverage(
            held_out,
            train_NCHW=images[views],
            train_masks_NHW=masks[views],
            held_out_NCHW=held_out,
            held_out_masks_NHW=held_out_masks,
            extractor=LEVELS,
            train_groups=groups,
        )
        assert isinstance(found, DefectCoverage)
        return float(found.yardstick_K.mean())

    # Exact copies in both folds are as near as the nearest defect nearly always.
    assert yardstick([str(int(view)) for view in views]) < yardstick(None)


def test_without_background_to_show_none_is_stated() -> None:
    images, masks = with_defects(24, seed=8)
    found = defect_coverage(
        images,
        train_NCHW=images,
        train_masks_NHW=torch.ones_like(masks),
        held_out_NCHW=images,
        held_out_masks_NHW=masks,
        extractor=LEVELS,
    )
    assert isinstance(found, DefectCoverage)
    assert found.background_K is None
    assert found.side_px == SIZE_PX // 2


def test_too_few_defects_are_no_figure_but_a_reason() -> None:
    images, masks = with_defects(6, seed=9)
    masks[1:] = False
    found = defect_coverage(
        images,
        train_NCHW=images,
        train_masks_NHW=masks,
        held_out_NCHW=images,
        held_out_masks_NHW=masks,
        extractor=LEVELS,
    )
    assert isinstance(found, NotApplicable)
    assert "there are 6, 1, and 1 and 0" in found.reason


def test_bad_input_is_refused() -> None:
    images, masks = with_defects(6, seed=9)
    with pytest.raises(MetricError, match=r"a mask of its image's size for each image, \(6, 32, 32\)"):
        defect_crops(images, masks[:5], extractor=LEVELS)
    with pytest.raises(MetricError, match="masks must be bool"):
        defect_boxes(masks.to(torch.uint8))
    with pytest.raises(MetricError, match="all images must have one size"):
        coverage(images[:, :, :30])
    with pytest.raises(MetricError, match="a group for each of the 40 images, but got 1"):
        coverage(images, train_groups=["a"])
    with pytest.raises(MetricError, match="num_neighbours >= 1"):
        coverage(images, num_neighbours=0)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="needs the package scikit-image")
def test_on_textures_unseen_real_images_score_the_yardstick_and_images_without_defects_the_background() -> None:
    textures = load_images("textures", size_px=64)
    assert textures.labels is not None
    assert textures.masks_NHW is not None
    tiles = {tile: i % 3 for i, tile in enumerate(sorted(set(textures.groups)))}
    train, held_out, unseen = (
        torch.tensor([i for i, tile in enumerate(textures.groups) if tiles[tile] == part]) for part in range(3)
    )
    good = torch.tensor([textures.class_names[textures.labels[i]].endswith("good") for i in unseen.tolist()])

    def on(generated: Tensor) -> DefectCoverage:
        assert textures.masks_NHW is not None
        found = defect_coverage(
            textures.images_NCHW[generated],
            train_NCHW=textures.images_NCHW[train],
            train_masks_NHW=textures.masks_NHW[train],
            held_out_NCHW=textures.images_NCHW[held_out],
            held_out_masks_NHW=textures.masks_NHW[held_out],
            max_crops=2048,
            extractor=load_extractor("lite0", input_size_px=64),
            train_groups=[textures.groups[i] for i in train.tolist()],
        )
        assert isinstance(found, DefectCoverage)
        return found

    every, healed = on(unseen), on(unseen[good])
    assert every.background_K is not None
    yardstick, background = float(every.yardstick_K.mean()), float(every.background_K.mean())
    assert yardstick - background > 0.05
    assert float(every.covered_K.mean()) == pytest.approx(yardstick, abs=0.1)
    assert float(healed.covered_K.mean()) == pytest.approx(background, abs=0.1)
    assert float(healed.covered_K.mean()) < float(every.covered_K.mean()) - 0.05
