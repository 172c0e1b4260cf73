import warnings

import torch
from op_cases import step

from autopv.testing.op_suite import OpSuite, structured_images


class TestGamma(OpSuite):
    op = "gamma"


def test_gamma_agrees_with_kornia() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kornia.enhance import adjust_gamma

    images_BCHW = structured_images((4, 3, 16, 16), seed=0)
    exponent_B = torch.tensor([0.2, 0.9, 1.0, 5.0])
    curved_BCHW = step("gamma", images_BCHW, target=0.5, draw={"log_gamma_B": exponent_B.log() / 0.5})
    torch.testing.assert_close(curved_BCHW, adjust_gamma(images_BCHW, exponent_B), atol=1e-6, rtol=1e-5)


def test_exponents_of_two_gamma_steps_multiply_on_every_value_even_outside_the_range() -> None:
    values_BCHW = torch.linspace(-0.5, 1.5, 256, dtype=torch.float64).view(1, 1, 16, 16)
    once_BCHW, again_BCHW = ({"log_gamma_B": torch.tensor([value], dtype=torch.float64)} for value in (0.8, -1.7))
    twice_BCHW = step("gamma", step("gamma", values_BCHW, target=1.0, draw=once_BCHW), target=1.0, draw=again_BCHW)
    both_BCHW = {"log_gamma_B": torch.tensor([0.8 - 1.7], dtype=torch.float64)}
    torch.testing.assert_close(twice_BCHW, step("gamma", values_BCHW, target=1.0, draw=both_BCHW))


def test_gamma_keeps_black_white_and_what_lies_beyond_them_at_any_exponent() -> None:
    values_BCHW = torch.tensor([-3.0, -0.1, 0.0, 1.0, 1.1, 9.0]).view(1, 1, 2, 3).expand(3, -1, -1, -1)
    draw = {"log_gamma_B": torch.tensor([-8.0, 0.5, 8.0])}  # exponents from 1/3000 to 3000
    assert torch.equal(step("gamma", values_BCHW, target=1.0, draw=draw), values_BCHW)


def test_one_gamma_draw_moves_every_tone_further_the_same_way() -> None:
    images_BCHW = structured_images((8, 1, 16, 16), seed=0)
    small_BCHW, large_BCHW = (step("gamma", images_BCHW, target=spread) - images_BCHW for spread in (0.1, 0.5))
    assert bool((small_BCHW * large_BCHW >= 0).all())
    assert bool((large_BCHW.abs() >= small_BCHW.abs() - 1e-6).all())
