"""What our model is compared with: pythae's VAE and diffusers' diffusion model, each trained for a given CPU time.

Networks, losses, noise schedules, averages and samplers are the packages' own; only the loop is ours, because neither
package's trainer can be told to stop after so many seconds with its learning rate at zero.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autopv.data.tensors import to_float
from autopv.training.streams import BatchOrder

SAMPLE_BATCH = 128
"""As in autopv/training/measure.py."""
WARMUP = 0.05
"""Share of the time over which the learning rate rises; diffusers' example takes 500 steps."""
UNTIMED_STEPS = 2
"""Before the clock starts: torch's lazy imports and memory are not the model's fault."""

Sampler = Callable[[int], Tensor]
"""So many images_NCHW in [0, 1]."""


@dataclass(frozen=True)
class Trained:
    """A trained model: its ways to sample, by name, and what it took."""

    samplers: Mapping[str, Sampler]
    num_params: int
    steps: int
    images_per_step: int
    cpu_s: float


VAE_SETTINGS: dict[str, dict[str, Any]] = {f"beta {beta:g}": {"beta": beta} for beta in (1.0, 0.1, 0.01, 0.003, 0.001)}
"""beta = 1 is the plain VAE with pythae's likelihood of unit variance; pixels in [0, 1] are closer to sqrt(0.003)."""
VAE_LATENT_DIM = {32: 64, 8: 16}
"""By size_px; pythae's benchmark scripts take 64 for CelebA, 16 for CIFAR10 and MNIST."""
VAE_BATCH, VAE_LEARNING_RATE = 100, 1e-3
"""Of pythae's benchmark scripts for CIFAR10, with its default optimiser, Adam."""


def train_vae(images_NCHW: Tensor, *, setting: Mapping[str, Any], cpu_s: float, seed: int) -> Trained:
    """pythae's BetaVAE: at 32 px with its ResNets for CIFAR10 (one channel), at 8 px with its default perceptrons."""
    from pythae.models import BetaVAE, BetaVAEConfig
    from pythae.models.nn.benchmarks.cifar import Decoder_ResNet_AE_CIFAR, Encoder_ResNet_VAE_CIFAR
    from pythae.samplers import GaussianMixtureSampler, NormalSampler
    from pythae.trainers import BaseTrainerConfig

    size_px = images_NCHW.shape[-1]
    images = to_float(images_NCHW)  # pythae wants [0, 1]

    def build() -> nn.Module:
        config = BetaVAEConfig(
            input_dim=tuple(images.shape[1:]), latent_dim=VAE_LATENT_DIM[size_px], beta=setting["beta"]
        )
        if size_px < 32:
            return BetaVAE(config)
        encoder, decoder = Encoder_ResNet_VAE_CIFAR(config), Decoder_ResNet_AE_CIFAR(config)
        # The only change to the networks: they are written for three channels.
        first, last = encoder.layers[0][0], decoder.layers[-1][0]
        encoder.layers[0][0] = nn.Conv2d(1, first.out_channels, 4, 2, padding=1)
        decoder.layers[-1][0] = nn.ConvTranspose2d(last.in_channels, 1, 4, 2, padding=1)
        return BetaVAE(config, encoder=encoder, decoder=decoder)

    assert BaseTrainerConfig().optimizer_cls == "Adam"
    model, steps, spent_s = _train_for(
        build,
        lambda model, images_BCHW: model({"data": images_BCHW}).loss,
        images,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=VAE_LEARNING_RATE),
        batch_size=VAE_BATCH,
        cpu_s=cpu_s,
        seed=seed,
    )
    mixture = GaussianMixtureSampler(model)  # ten Gaussians, pythae's default
    mixture.fit(images)
    samplers = {"normal prior": NormalSampler(model), "mixture": mixture}
    return Trained(
        samplers={
            name: lambda num, sampler=sampler: sampler.sample(num, batch_size=SAMPLE_BATCH)
            for name, sampler in samplers.items()
        },
        num_params=_num_params(model),
        steps=steps,
        images_per_step=VAE_BATCH,
        cpu_s=spent_s,
    )


DIFFUSION_SETTINGS: dict[str, dict[str, Any]] = {
    f"{size}, {schedule}": {"size": size, "schedule": schedule}
    for size in ("small", "medium")
    for schedule in ("linear", "cosine")
}
OUR_SIZE = "as many weights as ours"
"""For speed.py; not among the settings that are chosen from."""
DIFFUSION_WIDTHS = {
    32: {"small": (16, 32, 64), "medium": (32, 64, 64), OUR_SIZE: (16, 32, 32)},
    8: {"small": (32, 64), "medium": (64, 128)},
}
"""Channels at each resolution, by size_px: 32, 16, 8, and 8, 4; attention at the last one, as in diffusers' example."""
DIFFUSION_SCHEDULES = {
    "linear": {"beta_schedule": "linear", "prediction_type": "epsilon"},  # diffusers' defaults (Ho et al.)
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
}
DIFFUSION_BATCH, DIFFUSION_LEARNING_RATE = 32, 1e-3
"""The example's rate, 1e-4, is for a network of six resolutions, up to 512 channels wide."""
SAMPLING_STEPS = 50


def train_diffusion(images_NCHW: Tensor, *, setting: Mapping[str, Any], cpu_s: float, seed: int) -> Trained:
    """diffusers' UNet2DModel, with loss, optimiser, clipping and EMA as in its example train_unconditional.py; DDIM."""
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    size_px = images_NCHW.shape[-1]
    widths = DIFFUSION_WIDTHS[size_px][setting["size"]]
    schedule = DDPMScheduler(num_train_timesteps=1000, **DIFFUSION_SCHEDULES[setting["schedule"]])

    def build() -> nn.Module:
        plain = len(widths) - 1
        return UNet2DModel(
            sample_size=size_px,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=widths,
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
            norm_num_groups=8,
        )

    def loss(model: nn.Module, images_BCHW: Tensor) -> Tensor:
        noise = torch.randn_like(images_BCHW)
        times_B = torch.randint(0, schedule.config.num_train_timesteps, (len(images_BCHW),))
        noisy = schedule.add_noise(images_BCHW, noise, times_B)
        is_epsilon = schedule.config.prediction_type == "epsilon"
        target = noise if is_epsilon else schedule.get_velocity(images_BCHW, noise, times_B)
        return nn.functional.mse_loss(model(noisy, times_B).sample, target)

    averages: list[EMAModel] = []

    def average(model: nn.Module) -> Callable[[], None]:
        averages.append(
            EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4, foreach=True)
        )
        return lambda: averages[-1].step(model.parameters())

    model, steps, spent_s = _train_for(
        build,
        loss,
        to_float(images_NCHW) * 2 - 1,
        optimizer=lambda parameters: torch.optim.AdamW(
            parameters, lr=DIFFUSION_LEARNING_RATE, betas=(0.95, 0.999), weight_decay=1e-6
        ),
        batch_size=DIFFUSION_BATCH,
        cpu_s=cpu_s,
        seed=seed,
        clip=1.0,
        after_step=average,
    )
    averages[-1].copy_to(model.parameters())
    # Trailing: the first step starts from pure noise, which matters with few steps (Lin et al., arXiv 2305.08891).
    pipeline = DDIMPipeline(model, DDIMScheduler.from_config(schedule.config, timestep_spacing="trailing"))
    pipeline.set_progress_bar_config(disable=True)

    def sample(num: int) -> Tensor:
        sizes = [min(SAMPLE_BATCH, num - start) for start in range(0, num, SAMPLE_BATCH)]
        batches = [
            pipeline(batch_size=size, num_inference_steps=SAMPLING_STEPS, output_type="np").images for size in sizes
        ]
        return torch.cat([torch.from_numpy(batch).permute(0, 3, 1, 2) for batch in batches])

    return Trained(
        samplers={f"DDIM {SAMPLING_STEPS}": sample},
        num_params=_num_params(model),
        steps=steps,
        images_per_step=DIFFUSION_BATCH,
        cpu_s=spent_s,
    )


def _train_for(
    build: Callable[[], nn.Module],
    loss: Callable[[nn.Module, Tensor], Tensor],
    images_NCHW: Tensor,
    *,
    optimizer: Callable[[Any], torch.optim.Optimizer],
    batch_size: int,
    cpu_s: float,
    seed: int,
    clip: float | None = None,
    after_step: Callable[[nn.Module], Callable[[], None]] | None = None,
) -> tuple[nn.Module, int, float]:
    """The model trained for cpu_s seconds of this process, its steps, and the seconds spent.

    The learning rate rises linearly, then falls to zero along a cosine, both by the share of the time that is spent.
    """

    torch.manual_seed(seed)
    model = build().train()
    chosen = optimizer(model.parameters())
    highest = chosen.param_groups[0]["lr"]
    each_step = None if after_step is None else after_step(model)
    order = BatchOrder(len(images_NCHW), batch_size=batch_size, seed=seed)
    steps, start_s = 0, math.inf
    while (share := max(0.0, (time.process_time() - start_s) / cpu_s)) < 1:
        for group in chosen.param_groups:
            group["lr"] = highest * min(1.0, share / WARMUP) * 0.5 * (1 + math.cos(math.pi * share))
        value = loss(model, images_NCHW[order.indices(steps)])
        assert torch.isfinite(value), "the loss is no longer finite"
        chosen.zero_grad()
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        chosen.step()
        if each_step is not None:
            each_step()
        steps += 1
        if steps == UNTIMED_STEPS:
            start_s = time.process_time()
    return model.eval(), steps, time.process_time() - start_s


def _num_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
