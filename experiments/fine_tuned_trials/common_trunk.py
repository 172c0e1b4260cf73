"""One hierarchical VAE trained on random policies of every length; what does not depend on the length is shared."""

import math

import torch
from torch import Tensor, nn

from autopv.models.base import build_model, max_frames
from autopv.policy import Policy
from autopv.spaces import Space
from autopv.training.plan import TrainingPlan
from autopv.training.streams import BatchOrder, stream

OWN = ("enter", "heads")
"""Parts whose shape or place depends on the number of frames."""
FIRST_SEED = 10_000
"""Of the random policies; those of experiments/elpv_table have the seeds 0 to 59."""


class CommonTrunk:
    """A model for each number of frames, all with the same parts but for `OWN`, and an average of all weights."""

    def __init__(self, images_NCHW: Tensor, *, seed: int) -> None:
        size_px, channels = images_NCHW.shape[-1], images_NCHW.shape[1]
        most = max_frames("hvae", preset="tiny", size_px=size_px)
        assert most is not None
        self.models = {
            num_frames: build_model(
                "hvae", preset="tiny", size_px=size_px, channels=channels, num_frames=num_frames, seed=seed
            )
            for num_frames in range(1, most + 1)
        }
        first = self.models[1]
        for model in self.models.values():
            for name, child in first.named_children():
                if name not in OWN:
                    setattr(model, name, child)
            for name, parameter in first.named_parameters(recurse=False):
                setattr(model, name, parameter)
            # The last frame is read off after the last level, whatever the length.
            model.get_submodule("heads")[-1] = first.get_submodule("heads")[-1]  # type: ignore[index, operator]
        self.parameters = list(dict.fromkeys(p for model in self.models.values() for p in model.parameters()))
        self.averages = {p: p.detach().clone() for p in self.parameters}
        self.images_NCHW, self.seed = images_NCHW, seed

    def train(self, steps: int, *, most_weight: float) -> list[float]:
        """Losses of all steps. Plan and schedule are those of a training; each step has a policy of its own.

        most_weight: no pseudo frame's loss weighs more. With weights as they are drawn (up to 1) the loss leaps by up
        to four orders of magnitude and the last frame learns far less (`uncapped/`).
        """
        plan, space = TrainingPlan(total_flops=1e15), Space.load("stage2_expressive")
        optimizer = torch.optim.AdamW(
            self.parameters,
            lr=plan.learning_rate,
            betas=(plan.beta1, plan.beta2),
            weight_decay=plan.weight_decay,
        )
        order = BatchOrder(len(self.images_NCHW), batch_size=plan.batch_size, seed=self.seed)
        losses: list[float] = []
        norms: list[float] = []
        for step in range(steps):
            policy = space.random_policy(FIRST_SEED + step)
            if policy.num_frames not in self.models:
                continue
            images_BCHW = self.images_NCHW[order.indices(step)].float() / 255
            frames_BTCHW = policy.render(
                images_BCHW,
                generator=stream(self.seed, purpose="render", step=step),
                donors=self.images_NCHW[:64].float() / 255 if "donors" in policy.needs else None,
            )
            loss = self.models[policy.num_frames].loss(
                frames_BTCHW,
                frame_weights_T=[*(min(w, most_weight) for w in policy.frame_weights(0.0)[:-1]), 1.0],
                generator=stream(self.seed, purpose="posterior", step=step),
                kl_weight=min(1.0, 0.05 + step / plan.loss_warmup_steps),
            )
            optimizer.zero_grad()
            torch.autograd.backward(loss.total_loss)
            norm = float(nn.utils.clip_grad_norm_(self.parameters, plan.grad_clip * (norms[-1] if norms else math.inf)))
            norms.append(norm if not norms else 0.98 * norms[-1] + 0.02 * min(norm, plan.grad_clip * norms[-1]))
            left = (steps - step) / (plan.decay_fraction * steps)
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * min(1.0, (step + 1) / plan.warmup_steps, left)
            optimizer.step()
            keep = min(plan.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.averages.values()), self.parameters, 1 - keep)
            losses.append(float(loss.total_loss.detach()))
        return losses

    def weights(self, policy: Policy) -> dict[str, Tensor]:
        """The averaged weights of the model that fits a policy, by name."""
        return {name: self.averages[parameter] for name, parameter in self.models[policy.num_frames].named_parameters()}
