"""A model with everything an optimiser step changes: AdamW's moments, the running gradient norm, the moving average."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from autopv.errors import InputError, TrainingDiverged
from autopv.models.base import LossTerms, VideoGenerator
from autopv.training.execution import Execution, is_out_of_memory
from autopv.training.plan import TrainingPlan
from autopv.training.team import Team

# How fast the running gradient norm follows: a memory of about 50 steps, as short as the shortest warm-up.
NORM_MEMORY = 0.02


class Learner:
    """One model being trained; `tensors` and `restore` carry its whole state, bit for bit.

    team: who else trains it, each on a part of every batch. All hold the same state and take the same steps, which are
    those of one process up to rounding.
    """

    def __init__(
        self,
        model: VideoGenerator,
        *,
        plan: TrainingPlan,
        execution: Execution | None = None,
        team: Team | None = None,
    ) -> None:
        self.model = model
        self.plan = plan
        self.execution = execution or Execution()
        self._team = team or Team()
        self.num_steps = 0
        self.num_skipped = 0
        loss_terms: Callable[..., tuple[Tensor, dict[str, Tensor]]] = model.loss_terms
        if self.execution.compiled:
            loss_terms = torch.compile(loss_terms, dynamic=False)
        self._loss_terms = self._team.wrap(_LossTerms(loss_terms, parameters=model.parameters()))
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
        kl_weight: float,
        learning_rate: float,
        generator: torch.Generator,
        labels: Tensor | None = None,
    ) -> LossTerms:
        """The loss terms before one optimiser step on these videos, whose classes are `labels`.

        In a team they are its part of the batch, and the terms are the whole batch's, for which chance is drawn. A
        batch that does not fit the memory is taken in twice as many parts, from then on, until single images do not.

        Raises:
            TrainingDiverged: a loss term or gradient is not finite; the weights are left as they were.
            InputError: a team's part of the batch does not fit the memory.
        """
        self.model.train()
        self.model.check_frames(frames_BTCHW, frame_weights_T=frame_weights_T)
        batch_size = len(frames_BTCHW) * self._team.size
        rows = self._team.rows(batch_size)
        noise = {name: value[rows] for name, value in self.model.draw_noise(batch_size, generator=generator).items()}
        condition = self.model.condition(labels, num_images=len(frames_BTCHW))
        while True:
            try:
                loss = self._backward(
                    frames_BTCHW, condition, frame_weights_T=frame_weights_T, noise=noise, kl_weight=kl_weight
                )
                break
            except RuntimeError as error:
                if not is_out_of_memory(error) or self.execution.num_parts >= len(frames_BTCHW):
                    raise
                if self._team.size > 1:
                    # The others are past this or wait for it: on its own none can begin the step again.
                    raise InputError(
                        f"a worker's part of a batch must fit the memory of its device, but {len(frames_BTCHW)} of "
                        f"{batch_size} images do not ({str(error).splitlines()[0][:200]}): give a smaller "
                        "--batch-size, or more --num-workers"
                    ) from error
                self.execution = replace(self.execution, num_parts=2 * self.execution.num_parts)
            # Outside the handler: what the failed attempt still holds goes with its traceback.
            self._optimizer.zero_grad()
            if frames_BTCHW.is_cuda:
                torch.cuda.empty_cache()
        if self._clip(loss):
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
            self._optimizer.step()
            # Young averages follow fast, or they would remember the initial weights.
            keep = min(self.plan.ema, (1 + self.num_steps) / (10 + self.num_steps))
            live = [p.detach() for p in self._parameters.values()]
            torch._foreach_lerp_(list(self._ema.values()), live, 1 - keep)
        else:
            self.num_skipped += 1
        self.num_steps += 1
        return loss

    def _backward(
        self,
        frames_BTCHW: Tensor,
        condition: Mapping[str, Tensor],
        *,
        frame_weights_T: Sequence[float],
        noise: Mapping[str, Tensor],
        kl_weight: float,
    ) -> LossTerms:
        """The loss terms of a batch, its gradients in place."""
        self._optimizer.zero_grad()
        weights_T, of_kl = frames_BTCHW.new_tensor(frame_weights_T), frames_BTCHW.new_tensor(kl_weight)
        total: Tensor | None = None
        terms: dict[str, Tensor] = {}
        parts = list(self.execution.parts(len(frames_BTCHW)))
        for part in parts:
            frames = frames_BTCHW[part]
            share = len(frames) / len(frames_BTCHW)
            with nullcontext() if part == parts[-1] else self._team.gathering(self._loss_terms):
                with self.execution.autocast(frames.device.type):
                    part_total, part_terms = self._loss_terms(
                        frames,
                        frame_weights_T=weights_T,
                        noise={name: value[part] for name, value in noise.items()},
                        kl_weight=of_kl,
                        **{name: value[part] for name, value in condition.items()},
                    )
                torch.autograd.backward(part_total * share)
            total = part_total.detach() * share + (0 if total is None else total)
            for name, value in part_terms.items():
                terms[name] = value.detach() * share + terms.get(name, 0)
        assert total is not None
        if self._team.size > 1:
            means = self._team.mean(torch.stack([value.float() for value in (total, *terms.values())]))
            total, terms = means[0], dict(zip(terms, means[1:], strict=True))
        return LossTerms(total, terms)

    def averaged_model(self) -> VideoGenerator:
        """A copy of the model with the averaged weights, in evaluation mode."""
        model = copy.deepcopy(self.model).eval().requires_grad_(False)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(self._ema[name])
                p.grad = None
        return model

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the whole state, by name: model/, ema/, exp_avg/, exp_avg_sq/, typical_norm, num_steps,
        num_skipped."""
        state = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        for name, p in self._parameters.items():
            state[f"ema/{name}"] = self._ema[name]
            state[f"exp_avg/{name}"] = self._optimizer.state[p]["exp_avg"]
            state[f"exp_avg_sq/{name}"] = self._optimizer.state[p]["exp_avg_sq"]
        state["typical_norm"] = self._typical_norm
        state["num_steps"] = torch.tensor(self.num_steps, dtype=torch.int64)
        state["num_skipped"] = torch.tensor(self.num_skipped, dtype=torch.int64)
        return {name: value.detach().clone() for name, value in state.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing; the state becomes the one that `tensors` gave, keeping each tensor's memory layout."""
        self.model.load_state_dict({n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")})
        self.num_steps, self.num_skipped = int(tensors["num_steps"]), int(tensors["num_skipped"])
        self._typical_norm.copy_(tensors["typical_norm"])
        for name, p in self._parameters.items():
            self._ema[name].copy_(tensors[f"ema/{name}"])
            slot = self._optimizer.state[p]
            slot["exp_avg"].copy_(tensors[f"exp_avg/{name}"])
            slot["exp_avg_sq"].copy_(tensors[f"exp_avg_sq/{name}"])
            slot["step"].fill_(self.num_steps - self.num_skipped)

    def _clip(self, loss: LossTerms) -> bool:
        """Whether the step is to be taken: not where the gradient's norm is far out of the ordinary."""
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norm_tensor = torch.nn.utils.get_total_norm(gradients, foreach=True)
        # The one place where the host waits for the device: neither may ever reach the weights unless it is finite.
        read = torch.stack([loss.total_loss.float(), norm_tensor, self._typical_norm])
        total, norm, typical = (float(value) for value in read.tolist())
        if not _is_finite(total):
            values = {name: float(value) for name, value in loss.terms.items()}
            bad = [name for name, value in values.items() if not _is_finite(value)] or ["total_loss"]
            self._diverged(f"every loss term must stay finite, but {', '.join(bad)} is", f" (terms: {values})")
        if not _is_finite(norm):
            self._diverged(f"every gradient must stay finite, but that of {_first_bad(self._parameters.items())} is")
        if self.num_steps == 0:
            self._typical_norm.copy_(norm_tensor)
            typical = norm
        limit = self.plan.grad_clip * typical
        if norm > limit:
            torch._foreach_mul_(gradients, limit / norm)
        self._typical_norm.lerp_(norm_tensor.clamp(max=limit), NORM_MEMORY)
        return norm <= self.plan.grad_skip * typical or typical == 0

    def _diverged(self, what: str, details: str = "") -> NoReturn:
        raise TrainingDiverged(
            f"{what} not at step {self.num_steps + 1}{details}: lower the learning rate "
            f"({self.plan.learning_rate:g}) or warm up longer"
        )


class _LossTerms(nn.Module):
    """The loss terms of a model as a module's one pass, for what is wrapped around modules.

    It holds the parameters alone, for whose gradients that is done: buffers are equal everywhere and stay so.
    """

    def __init__(
        self, loss_terms: Callable[..., tuple[Tensor, dict[str, Tensor]]], *, parameters: Iterable[nn.Parameter]
    ) -> None:
        super().__init__()
        self._loss_terms = loss_terms
        self._parameters_of_model = nn.ParameterList(parameters)

    def forward(self, frames_BTCHW: Tensor, **rest: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self._loss_terms(frames_BTCHW, **rest)


def _is_finite(value: float) -> bool:
    return value - value == 0.0


def _first_bad(parameters: Iterable[tuple[str, Tensor]]) -> str:
    for name, p in parameters:
        if p.grad is not None and not torch.isfinite(p.grad).all():
            return name
    return "their sum"
