"""The token model: frames become tokens each by itself, and what priors tell in training is what sampling uses."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autopv.errors import ModelError
from autopv.models.base import build_model, default_size_px
from autopv.models.sampling import Sampling
from autopv.models.vq import Vq
from autopv.testing.model_suite import ModelSuite

SIZE_PX = 8
TOLD = ("tiny", "tiny-masked")
JOINT = ("tiny-joint", "tiny-masked-joint")
PRESETS = (*TOLD, *JOINT)


class TestVq(ModelSuite):
    model = "vq"


class TestVqMasked(ModelSuite):
    model = "vq"
    preset = "tiny-masked"


class TestVqJoint(ModelSuite):
    model = "vq"
    preset = "tiny-joint"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def build(preset, *, num_frames=3, num_classes=0):
    model = build_model(
        "vq", preset=preset, size_px=SIZE_PX, channels=1, num_frames=num_frames, num_classes=num_classes, seed=0
    )
    assert isinstance(model, Vq)
    return model.eval()


def videos(count, *, num_frames=3, seed=2):
    return torch.rand((count, num_frames, 1, SIZE_PX, SIZE_PX), generator=generator(seed))


def told(model, do):
    """What `do` asks of the prior's last layer, in order."""
    logits = []
    hook = model.prior.leave.register_forward_hook(lambda _module, _inputs, out: logits.append(out.detach()))
    result = do()
    hook.remove()
    return logits, result


def nothing_replaced(tokens_BTN):
    shape = (len(tokens_BTN), tokens_BTN[0].numel())
    return {"replace": torch.ones(shape), "other": torch.zeros(shape)}


def all_hidden(tokens_BTN):
    return {
        "order": torch.rand(tokens_BTN.shape, generator=generator()),
        "share": torch.full(tokens_BTN.shape[:2], 0.999),
    }


def trained_logits(model, tokens_BTN, *, labels_B=None):
    """Of every token (B, T N, codes), as training sees them: nothing replaced, or all of a frame hidden."""
    tokens = model.prior.tokens
    drawn_BTN = tokens_BTN[:, tokens.num_told :]
    noise = all_hidden(drawn_BTN) if "masked" in model.preset else nothing_replaced(drawn_BTN)
    if labels_B is not None:
        noise["known"] = torch.ones(len(tokens_BTN))

    def rates():
        return model.prior.rates(tokens_BTN, codes=model.tokeniser.codes, noise=noise, labels_B=labels_B)

    with torch.no_grad():
        (logits,), _ = told(model, rates)
    return logits


def random_tokens(model, count, *, seed=3):
    tokens = model.prior.tokens
    shape = (count, tokens.num_told + tokens.num_frames, tokens.per_frame)
    return torch.randint(tokens.num_codes, shape, generator=generator(seed))


def test_tokens_stand_for_the_codes_that_the_decoder_gets():
    model = build("tiny")
    frames = videos(4)[:, 0] * 2 - 1
    codes, tokens = model.tokeniser.encode(frames)
    assert tokens.dtype == torch.int64
    assert tokens.shape == (4, model.tokeniser.num_tokens)
    assert len(tokens.unique()) > 1
    assert torch.equal(model.tokeniser.decode(codes), model.tokeniser.decode_tokens(tokens))


def test_colour_images_are_tokenised_as_a_whole():
    model = build_model("vq", preset="tiny", size_px=SIZE_PX, channels=3, num_frames=2, seed=0)
    frames = videos(4, num_frames=2).expand(-1, -1, 3, -1, -1)
    loss = model.loss(frames, frame_weights_T=[0.1, 1.0], generator=generator())
    assert bool(torch.isfinite(loss.total_loss))
    assert model.tokeniser.encode(frames[:, 0])[1].shape == (4, model.tokeniser.num_tokens)
    assert model.eval().sample_last_frame(2, generator=generator()).shape == (2, 3, SIZE_PX, SIZE_PX)


def test_a_frame_is_tokenised_without_the_others():
    model = build("tiny")
    frames = videos(2).flatten(0, 1)
    together, alone = model.tokeniser.encode(frames)[1], [model.tokeniser.encode(f[None])[1][0] for f in frames]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_prior_reaches_nothing_but_itself(preset):
    gradients = []
    for kl_weight in (0.0, 1.0):
        model = build(preset)
        loss = model.loss(videos(4), frame_weights_T=[0.1, 0.1, 1.0], generator=generator(), kl_weight=kl_weight)
        torch.autograd.backward(loss.total_loss)
        gradients.append([p.grad for p in model.tokeniser.parameters()])
        assert any(bool(p.grad.any()) for p in model.prior.parameters()) == (kl_weight > 0)
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("preset", JOINT)
def test_a_later_frame_says_nothing_of_an_earlier_one(preset):
    model = build(preset)
    one = random_tokens(model, 2)
    other = one.clone()
    other[:, 1:] = random_tokens(model, 2, seed=4)[:, 1:]
    first, second = (
        trained_logits(model, tokens).view(2, 3, model.tokeniser.num_tokens, -1) for tokens in (one, other)
    )
    assert torch.allclose(first[:, 0], second[:, 0], atol=1e-5)
    # Of the second frame the causal prior sees the start.
    assert torch.allclose(first[:, 1, 0], second[:, 1, 0], atol=1e-5)
    assert not torch.allclose(first[:, 2], second[:, 2], atol=1e-3)


def test_a_hidden_token_is_not_told_by_itself():
    model = build("tiny-masked-joint", num_frames=2)
    one = random_tokens(model, 2)
    noise = all_hidden(one) | {"share": torch.full((2, 2), 0.5)}
    hidden = noise["order"].argsort(2).argsort(2) < model.tokeniser.num_tokens // 2 + 1
    other = torch.where(hidden, random_tokens(model, 2, seed=4), one)
    seen = torch.where(hidden, one, random_tokens(model, 2, seed=4))

    def logits(tokens):
        codes = model.tokeniser.codes
        (out,), _ = told(model, lambda: model.prior.rates(tokens, codes=codes, noise=noise, labels_B=None))
        return out.view(2, 2, model.tokeniser.num_tokens, -1)

    assert torch.allclose(logits(one)[:, 0], logits(other)[:, 0], atol=1e-5)
    assert not torch.allclose(logits(one)[:, 0], logits(seen)[:, 0], atol=1e-3)


@pytest.mark.parametrize("preset", PRESETS)
def test_sampling_asks_what_was_trained(preset):
    """With keys and values kept from one token or frame to the next, logits are those of whole videos."""
    model = build(preset)
    if model.sampling is not None:
        model.sampling = Sampling(num_steps=1)
    logits, tokens_BTN = told(model, lambda: model._tokens(2, labels_B=None, generator=generator(), temperature=1.0))
    sampled = torch.stack(logits, 1).view(2, tokens_BTN[0].numel(), -1)
    videos_BTN = torch.cat([random_tokens(model, 2)[:, : model.prior.tokens.num_told], tokens_BTN], 1)
    assert torch.allclose(sampled, trained_logits(model, videos_BTN), atol=1e-4)


def test_guidance_asks_with_and_without_the_class():
    model = build("tiny-masked-joint", num_frames=2, num_classes=2)
    labels_B = torch.tensor([0, 1])
    model.sampling = Sampling(num_steps=1, guidance=3.0)
    logits, tokens_BTN = told(
        model, lambda: model._tokens(2, labels_B=labels_B, generator=generator(), temperature=1.0)
    )
    with_class, without = torch.stack(logits, 1).chunk(2)
    assert torch.allclose(
        with_class.reshape(2, -1, model.tokeniser.num_codes),
        trained_logits(model, tokens_BTN, labels_B=labels_B),
        atol=1e-4,
    )
    assert torch.allclose(
        without.reshape(2, -1, model.tokeniser.num_codes),
        trained_logits(model, tokens_BTN, labels_B=torch.tensor([-1, -1])),
        atol=1e-4,
    )
    guided = model.sample_last_frame(2, labels=labels_B, generator=generator())
    model.sampling = Sampling(num_steps=1)
    assert not torch.equal(guided, model.sample_last_frame(2, labels=labels_B, generator=generator()))


@pytest.mark.parametrize("preset", TOLD)
def test_what_is_told_changes_nothing_of_the_image(preset):
    model = build(preset)
    one, image = random_tokens(model, 2), model.sample_last_frame(4, generator=generator())
    other = torch.cat([random_tokens(model, 2, seed=4)[:, :2], one[:, 2:]], 1)
    first, second = (trained_logits(model, tokens) for tokens in (one, other))
    assert torch.equal(first, second)
    torch.nn.init.normal_(model.prior.tell.weight)
    assert torch.equal(model.sample_last_frame(4, generator=generator()), image)
    assert torch.equal(model.sample_frames(4, generator=generator())[:, -1], image)


@pytest.mark.parametrize("preset", TOLD)
def test_told_frames_cost_nothing_when_the_image_is_sampled(preset):
    costs = []
    for num_frames in (1, 3):
        with FlopCounterMode(display=False) as counter:
            build(preset, num_frames=num_frames).sample_last_frame(2, generator=generator())
        costs.append(counter.get_total_flops())
    assert costs[0] == costs[1] > 0


@pytest.mark.parametrize("preset", TOLD)
def test_frames_are_told_as_they_go_with_the_image(preset):
    """Images of one constant value, dark or bright, and one frame of the other value."""
    model = build(preset, num_frames=2).train()
    optimizer = torch.optim.Adam(model.prior.parameters(), lr=2e-3)
    values = torch.tensor([5, 90])[torch.arange(16) % 2]
    videos_BTN = torch.stack([95 - values, values], 1)[..., None].expand(16, 2, model.tokeniser.num_tokens)
    codes = model.tokeniser.codes
    for step in range(100):
        noise = model.draw_noise(16, generator=generator(step))
        rates_T = model.prior.rates(videos_BTN, codes=codes, noise=noise, labels_B=None)
        optimizer.zero_grad()
        torch.autograd.backward(rates_T.sum())
        optimizer.step()
    told_BN = model.eval().prior.told(videos_BTN[:, 1:], codes=codes, labels_B=None)[:, 0]
    # The causal prior has seen nothing of the image where it tells the first token.
    assert torch.equal(told_BN[:, 1:], videos_BTN[:, 0, 1:])
    nats = rates_T.detach()[0] * model.tokeniser.num_tokens
    assert 0.4 < float(nats) < 3


@pytest.mark.parametrize("num_steps", [1, 3, 8, 40])
def test_every_token_is_decided_in_any_number_of_passes(num_steps):
    model = build("tiny-masked-joint", num_frames=2)
    model.sampling = Sampling(num_steps=num_steps)
    logits, tokens_BTN = told(model, lambda: model._tokens(3, labels_B=None, generator=generator(), temperature=1.0))
    assert len(logits) == 2 * num_steps
    # What was never drawn would be token 0 all over.
    assert (tokens_BTN == 0).float().mean() < 0.2


@pytest.mark.parametrize("preset", JOINT)
def test_the_rate_is_that_of_the_data_when_it_has_two_values(preset):
    """Videos of one constant value, dark or bright: a rate of log 2 for the first frame, and none for the others."""
    model = build(preset, num_frames=2).train()
    optimizer = torch.optim.Adam(model.prior.parameters(), lr=2e-3)
    tokens = torch.tensor([5, 90])[torch.arange(16) % 2][:, None, None].expand(16, 2, model.tokeniser.num_tokens)
    for step in range(150):
        rates_T = model.prior.rates(
            tokens,
            codes=model.tokeniser.codes,
            noise=model.draw_noise(16, generator=generator(step)),
            labels_B=None,
        )
        optimizer.zero_grad()
        torch.autograd.backward(rates_T.sum())
        optimizer.step()
    nats_T = rates_T.detach() * model.tokeniser.num_tokens

    def sample():
        return model.eval()._tokens(400, labels_B=None, generator=generator(), temperature=1.0)

    logits, drawn = told(model, sample)
    whole = (drawn == drawn[:, :1, :1]).flatten(1).all(1)
    bright = (drawn[:, 0, 0] == 90).float().mean()
    assert whole.float().mean() > 0.8
    # Nothing is annealed here, so the model is off by a third; sampling is not off what the model says.
    says = logits[0].softmax(-1)[0].reshape(-1, model.tokeniser.num_codes).mean(0)[90]
    assert 0.3 < float(says) < 0.7
    assert float(bright) == pytest.approx(float(says), abs=0.08)
    assert float(nats_T[1]) < 0.3
    # Hidden tokens of a frame of which one is seen are known: the bound is that of one unknown in N.
    assert 0.4 < float(nats_T[0]) < 1.5


@pytest.mark.parametrize("preset", ["tiny", "tiny-masked", "small", "small-masked", "base", "base-masked"])
def test_the_tokeniser_is_a_small_part_of_training(preset):
    size_px = default_size_px("vq", preset)
    for suffix, num_frames, most in (("", 1, 0.2), ("-joint", 3, 0.2), ("", 3, 0.41)):
        with torch.device("meta"):
            model = build_model(
                "vq", preset=preset + suffix, size_px=size_px, channels=1, num_frames=num_frames, seed=0
            )
        assert num_frames * model.tokeniser.flops() < most * model.flops()


@pytest.mark.parametrize("preset", PRESETS)
def test_without_temperature_the_likeliest_tokens_are_drawn(preset):
    model = build(preset)
    cold, colder = (model.sample_last_frame(2, generator=generator(), temperature=t) for t in (0.0, 1e-9))
    assert bool(torch.isfinite(cold).all())
    assert torch.equal(cold, colder)


def test_what_a_token_model_has_not_is_refused():
    model = build("tiny-masked")
    model.sampling = Sampling(num_steps=2, churn=1.0)
    with pytest.raises(ModelError, match="without --churn"):
        model.sample_last_frame(1, generator=generator())
    model.sampling = Sampling(num_steps=2, guidance=2.0)
    with pytest.raises(ModelError, match="without classes"):
        model.sample_last_frame(1, generator=generator())
    assert build("tiny").sampling is None
