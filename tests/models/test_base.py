import pytest

from autopv.errors import ModelError
from autopv.models.base import build_model, default_size_px, model_names, preset_names, register_model
from autopv.models.hvae import Hvae


def test_hvae_is_known_with_its_presets_and_sizes():
    assert "hvae" in model_names()
    assert preset_names("hvae") == ("tiny", "small", "base")
    assert [default_size_px("hvae", preset) for preset in preset_names("hvae")] == [16, 64, 128]


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(ModelError, match=r"unknown model 'hvea'\. Did you mean 'hvae'"):
        build_model("hvea", preset="tiny", size_px=16, channels=1, num_frames=1, seed=0)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ModelError, match="Did you mean 'tiny'"):
        build_model("hvae", preset="tinny", size_px=16, channels=1, num_frames=1, seed=0)
    with pytest.raises(ModelError, match="Did you mean 'small'"):
        default_size_px("hvae", "smal")


def test_a_name_is_registered_once():
    with pytest.raises(ModelError, match="already Hvae"):
        register_model("hvae")(Hvae)


@pytest.mark.parametrize(("channels", "num_frames", "rule"), [(0, 1, "channels >= 1"), (1, 0, "num_frames >= 1")])
def test_impossible_shapes_are_refused(channels, num_frames, rule):
    with pytest.raises(ModelError, match=rule):
        build_model("hvae", preset="tiny", size_px=16, channels=channels, num_frames=num_frames, seed=0)


def test_classes_are_refused_for_a_family_that_knows_none_with_those_that_do(monkeypatch):
    monkeypatch.setattr(Hvae, "takes_classes", False)
    shape = {"preset": "tiny", "size_px": 16, "channels": 1, "num_frames": 1}
    with pytest.raises(ModelError, match=r"'hvae' knows no classes.* take one of diffusion, refine"):
        build_model("hvae", **shape, seed=0, num_classes=2)
    with pytest.raises(ModelError, match="knows no classes"):
        Hvae(**shape, num_classes=2)
    with pytest.raises(ModelError, match="num_classes >= 0"):
        Hvae(**shape, num_classes=-1)
