from pathlib import Path

import pytest
import torch
from evaluation_cases import NETWORK, write_parts

from autopv.evaluation import defects as defects_module
from autopv.evaluation.defects import DefectFindings, defect_findings
from autopv.evaluation.feature_store import extract
from autopv.evaluation.not_applicable import NotApplicable
from autopv.evaluation.opening import OpenedSets
from autopv.evaluation.sources import TensorSource, open_source
from autopv.evaluation.yardstick import Yardstick
from autopv.metrics.extractors import load_extractor

SIZE_PX = 24
EXTRACTOR = load_extractor(NETWORK, input_size_px=32)


def opened(folder: Path, count: int, **wishes: object) -> TensorSource:
    """Parts of one brightness with large defects, held in memory, so that the tests are of the defects."""
    write_parts(folder, count, size_px=SIZE_PX, classes=("plate",), **{"with_masks": True} | wishes)  # type: ignore[arg-type]
    source = open_source(str(folder), role="a set", num_samples=2)
    chunk = source.read(0, len(source), size_px=SIZE_PX, channels=3)
    return TensorSource(chunk.images_NCHW, label=folder.name, masks_NHW=chunk.masks_NHW)


def findings(
    generated: TensorSource, *, reference: TensorSource, train: TensorSource | None
) -> DefectFindings | NotApplicable:
    sets = OpenedSets(reference=reference, train=train, generated=(generated,), size_px=SIZE_PX, notes=())
    features = [
        None if one is None else extract(one, EXTRACTOR, size_px=SIZE_PX, cache=None)
        for one in (reference, train, generated)
    ]
    assert features[0] is not None
    assert features[2] is not None
    yardstick = Yardstick(features[0], features[1], generated=[features[2]])
    return defect_findings(generated, features[2], yardstick=yardstick, sets=sets, extractor=EXTRACTOR)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TensorSource]:
    root = tmp_path_factory.mktemp("parts")
    return {
        "real": opened(root / "real", 40, seed=0),
        "seen": opened(root / "seen", 40, seed=1),
        "made": opened(root / "made", 40, seed=2),
        "bright": opened(root / "bright", 40, seed=3, shade=60),
        "large": opened(root / "large", 80, seed=6),
        "few": opened(root / "few", 12, seed=4),
        "plain": opened(root / "plain", 40, seed=5, with_masks=False),
        "healed": opened(root / "healed", 40, seed=5, with_masks=False, defects=False),
    }


def found(parts: dict[str, TensorSource], generated: str) -> DefectFindings:
    one = findings(parts[generated], reference=parts["real"], train=parts["seen"])
    assert isinstance(one, DefectFindings)
    return one


def test_without_masks_of_the_real_images_nothing_is_said(parts: dict[str, TensorSource]) -> None:
    for reference, train in (("plain", "seen"), ("real", "plain"), ("plain", None)):
        one = findings(parts["made"], reference=parts[reference], train=None if train is None else parts[train])
        assert isinstance(one, NotApplicable)
        assert one.reason.startswith("plain has no defect masks")


def test_too_few_masked_defects_say_nothing_of_a_distance(parts: dict[str, TensorSource]) -> None:
    one = findings(parts["few"], reference=parts["real"], train=parts["seen"])
    assert isinstance(one, NotApplicable)
    assert "at least 8" in one.reason
    assert "generated images have 6" in one.reason


def test_the_distance_between_defects_is_at_its_floor_for_real_ones_and_above_for_others(
    parts: dict[str, TensorSource],
) -> None:
    honest, bright = found(parts, "made").record, found(parts, "bright").record
    assert honest["num_defects"] == bright["num_defects"] == 20
    for distance in ("fd", "kid"):
        assert honest[distance]["value"] < bright[distance]["value"]
        excess = bright[distance]["value"] - bright[distance]["floor"]
        assert excess > 3 * bright[distance]["standard_error"]
        excess = honest[distance]["value"] - honest[distance]["floor"]
        assert abs(excess) < 4 * honest[distance]["standard_error"]


def test_each_real_defect_is_shown_beside_its_nearest(parts: dict[str, TensorSource]) -> None:
    # The same images in another order: every defect is nearest to itself.
    reference = parts["real"]
    whole = reference.read(0, len(reference), size_px=SIZE_PX, channels=3)
    assert whole.masks_NHW is not None
    mirrored = TensorSource(whole.images_NCHW.flip(0), label="order", masks_NHW=whole.masks_NHW.flip(0))
    one = findings(mirrored, reference=reference, train=parts["seen"])
    assert isinstance(one, DefectFindings)
    assert len(one.pictures) == 8
    for real, nearest in one.pictures:
        assert torch.equal(real, nearest)


def test_a_halved_reference_has_its_floor_from_the_other_half(parts: dict[str, TensorSource]) -> None:
    one = findings(parts["made"], reference=parts["large"], train=None)
    assert isinstance(one, DefectFindings)
    assert 8 <= one.record["num_defects"] <= 20
    assert one.record["fd"]["floor"] > 0


@pytest.mark.slow
def test_images_without_masks_cover_defects_if_they_have_them(
    parts: dict[str, TensorSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, healed = found(parts, "plain"), found(parts, "healed")
    assert plain.record["kind"] == healed.record["kind"] == "coverage"
    assert plain.record["num_defects"] == 20
    assert plain.record["covered"]["value"] > healed.record["covered"]["value"] + 0.1
    for share in ("covered", "real", "difference"):
        assert plain.record[share]["standard_error"] >= 0
    difference = plain.record["covered"]["value"] - plain.record["real"]["value"]
    assert plain.record["difference"]["value"] == pytest.approx(difference, abs=1e-6)
    sides = {tuple(picture.shape[1:]) for pair in plain.pictures for picture in pair}
    # Twice the side that is compared, or the whole image.
    side = min(2 * plain.record["side_px"], SIZE_PX)
    assert sides == {(side, side)}
    monkeypatch.setattr(defects_module, "MAX_IMAGES", 15)
    assert found(parts, "plain").record["num_defects"] < 20
