"""A model with everything an optimiser step changes: AdamW's moments, the running gradient norm, the moving average."""

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from autopv.errors import TrainingDiverged
from autopv.models.base import LossTerms, VideoGenerator
from autopv.training.plan import TrainingPlan

# How fast the running gradient norm follows: a memory of about 50 steps, as short as the shortest warm-up.
NORM_MEMORY = 0.02


class Learner:
    """One model being trained; `tensors` and `restore` carry its whole state, bit for bit."""

    def __init__(self, model: VideoGenerator, *, plan: TrainingPlan) -> None:
        self.model = model
        self.plan = plan
        self.num_steps = 0
        self._parameters = dict(model.named_parameters())
        self._ema = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._typical_norm = torch.zeros((), device=model.device)
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(),
            lr=plan.learning_rate,
            betas=(plan.beta1, plan.beta2),
            weight_decay=plan.weight_decay,
            fused=True,
        )
        # Made here rather than by the first step, so that the state has one shape from the start.
        for p in self._parameters.values():
            step = torch.zeros((), dtype=torch.float32, device=p.device)
            self._optimizer.state[p] = {
                "step": step,
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }

    def step(
        self,
        frames_BTCHW: Tensor,
        *,
        frame_weights_T: Sequence[float],
        progress: float,
        learning_rate: float,
        generator: torch.Generator,
    ) -> LossTerms:
        """The loss terms before one optimiser step on these videos.

        Raises:
            TrainingDiverged: a loss term or gradient is not finite; the weights are left as they were.
        """
        self.model.train()
        loss = self.model.loss(frames_BTCHW, frame_weights_T=frame_weights_T, generator=generator, progress=progress)
        self._check_loss(loss)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss.total_loss)
        self._clip()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        # Young averages follow fast, or they would remember the initial weights.
        keep = min(self.plan.ema, (1 + self.num_steps) / (10 + self.num_steps))
        live = [p.detach() for p in self._parameters.values()]
        torch._foreach_lerp_(list(self._ema.values()), live, 1 - keep)
        self.num_steps += 1
        return loss

    def averaged_model(self) -> VideoGenerator:
        """A copy of the model with the averaged weights, in evaluation mode."""
        model = copy.deepcopy(self.model).eval().requires_grad_(False)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(self._ema[name])
                p.grad = None
        return model

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the whole state, by name: model/, ema/, exp_avg/, exp_avg_sq/, typical_norm, num_steps."""
        state = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        for name, p in self._parameters.items():
            state[f"ema/{name}"] = self._ema[name]
            state[f"exp_avg/{name}"] = self._optimizer.state[p]["exp_avg"]
            state[f"exp_avg_sq/{name}"] = self._optimizer.state[p]["exp_avg_sq"]
        state["typical_norm"] = self._typical_norm
        state["num_steps"] = torch.tensor(self.num_steps, dtype=torch.int64)
        return {name: value.detach().clone() for name, value in state.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing; the state becomes the one that `tensors` gave, keeping each tensor's memory layout."""
        self.model.load_state_dict({n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")})
        self.num_steps = int(tensors["num_steps"])
        self._typical_norm.copy_(tensors["typical_norm"])
        for name, p in self._parameters.items():
            self._ema[name].copy_(tensors[f"ema/{name}"])
            slot = self._optimizer.state[p]
            slot["exp_avg"].copy_(tensors[f"exp_avg/{name}"])
            slot["exp_avg_sq"].copy_(tensors[f"exp_avg_sq/{name}"])
            slot["step"].fill_(self.num_steps)

    def _check_loss(self, loss: LossTerms) -> None:
        # Read at every step: a loss that is not finite must never reach the weights.
        if torch.isfinite(loss.total_loss):
            return
        values = {name: float(value) for name, value in loss.terms.items()}
        bad = [name for name, value in values.items() if not _is_finite(value)] or ["total_loss"]
        raise TrainingDiverged(
            f"every loss term must stay finite, but {', '.join(bad)} is not at step {self.num_steps + 1} "
            f"(terms: {values}): lower the learning rate ({self.plan.learning_rate:g}) or warm up longer"
        )

    def _clip(self) -> None:
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        if not torch.isfinite(norm):
            raise TrainingDiverged(
                f"every gradient must stay finite, but that of {_first_bad(self._parameters.items())} is not at step "
                f"{self.num_steps + 1}: lower the learning rate ({self.plan.learning_rate:g}) or warm up longer"
            )
        if self.num_steps == 0:
            self._typical_norm.copy_(norm)
        limit = self.plan.grad_clip * self._typical_norm
        # Not a branch on the norm: the same operations run whether it clips or not, on every device.
        torch._foreach_mul_(gradients, (limit / norm.clamp(min=1e-12)).clamp(max=1.0))
        self._typical_norm.lerp_(torch.minimum(norm, limit), NORM_MEMORY)


def _is_finite(value: float) -> bool:
    return value - value == 0.0


def _first_bad(parameters: Iterable[tuple[str, Tensor]]) -> str:
    for name, p in parameters:
        if p.grad is not None and not torch.isfinite(p.grad).all():
            return name
    return "their sum"
