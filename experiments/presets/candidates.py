"""What is tried beside the tiny presets and plans of all families: one thing changed at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autopv.models import diffusion, hvae, refine, vq
from autopv.models.ladder import Stage

AS_IT_IS = "as it is"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """preset: of the family, in place of `tiny`. plan: what differs from the family's. constants: of its module.

    compute: in that of the others; narrow networks take more time for the same.
    """

    preset: Any
    plan: Mapping[str, float] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    compute: float = 1.0


def _stages(tiny: Any, change: Callable[[Stage], Stage]) -> Any:
    return replace(tiny, stages=tuple(change(stage) for stage in tiny.stages))


def _widened(tiny: Any, factor: float) -> Candidate:
    def widen(stage: Stage) -> Stage:
        return replace(stage, width=int(stage.width * factor), inner=int(stage.inner * factor))

    return Candidate(preset=_stages(tiny, widen))


def _hvae() -> dict[str, Candidate]:
    tiny = hvae.PRESETS["tiny"]
    return {
        AS_IT_IS: Candidate(preset=tiny),
        "widths x 0.5": _widened(tiny, 0.5),
        "widths x 0.75": _widened(tiny, 0.75),
        "widths x 1.5": _widened(tiny, 1.5),
        "1.8 times the compute": Candidate(preset=tiny, compute=1.8),
        "batches of 16": Candidate(preset=tiny, plan={"batch_size": 16}),
    }


def _refine() -> dict[str, Candidate]:
    tiny = refine.PRESETS["tiny"]
    return {
        AS_IT_IS: Candidate(preset=tiny),
        "widths x 0.75": _widened(tiny, 0.75),
        "widths x 1.5": _widened(tiny, 1.5),
        "one level a stage": Candidate(preset=_stages(tiny, lambda stage: replace(stage, num_levels=1))),
        "twice the levels": Candidate(
            preset=_stages(tiny, lambda stage: replace(stage, num_levels=2 * stage.num_levels))
        ),
        "rate 0.0025": Candidate(preset=tiny, plan={"learning_rate": 2.5e-3}),
        "rate 0.01": Candidate(preset=tiny, plan={"learning_rate": 1e-2}),
        "average over 200 steps": Candidate(preset=tiny, plan={"ema": 0.995}),
        "widths x 0.5": _widened(tiny, 0.5),
        "1.8 times the compute": Candidate(preset=tiny, compute=1.8),
        "batches of 16": Candidate(preset=tiny, plan={"batch_size": 16}),
    }


def _diffusion() -> dict[str, Candidate]:
    tiny = diffusion.PRESETS["tiny"]
    return {
        AS_IT_IS: Candidate(preset=tiny),
        "widths 16, 32, 48": Candidate(preset=replace(tiny, widths=(16, 32, 48))),
        "widths 32, 64, 96": Candidate(preset=replace(tiny, widths=(32, 64, 96))),
        "widths 32, 64": Candidate(preset=replace(tiny, widths=(32, 64))),
        "two blocks, widths 16, 32, 48": Candidate(preset=replace(tiny, widths=(16, 32, 48), num_blocks=2)),
        "attention at 4 only": Candidate(preset=replace(tiny, attention_side=4)),
        "rate 0.001": Candidate(preset=tiny, plan={"learning_rate": 1e-3}),
        "rate 0.004": Candidate(preset=tiny, plan={"learning_rate": 4e-3}),
        "average over 200 steps": Candidate(preset=tiny, plan={"ema": 0.995}),
        "noise levels as in EDM2": Candidate(preset=tiny, constants={"LOG_LEVEL_MEAN": -0.4, "LOG_LEVEL_SD": 1.0}),
        "widths 16, 24, 32": Candidate(preset=replace(tiny, widths=(16, 24, 32))),
        "widths 16, 32, 48, attention at 4 only": Candidate(
            preset=replace(tiny, widths=(16, 32, 48), attention_side=4)
        ),
        "1.5 times the compute": Candidate(preset=tiny, compute=1.5),
        "batches of 16": Candidate(preset=tiny, plan={"batch_size": 16}),
    }


def _vq() -> dict[str, Candidate]:
    tiny = vq.PRESETS["tiny"]
    return {
        AS_IT_IS: Candidate(preset=tiny),
        "masked": Candidate(preset=vq.PRESETS["tiny-masked"]),
        "width 96": Candidate(preset=replace(tiny, width=96)),
        "six layers": Candidate(preset=replace(tiny, depth=6)),
        "64 codes": Candidate(preset=replace(tiny, levels=(4, 4, 4))),
        "240 codes": Candidate(preset=replace(tiny, levels=(8, 6, 5))),
        # A quarter of the tokens, each for four times the pixels.
        "4 tokens a side, 1000 codes": Candidate(preset=replace(tiny, token_side=4, levels=(8, 5, 5, 5))),
        "rate 0.001": Candidate(preset=tiny, plan={"learning_rate": 1e-3}),
        "rate 0.004": Candidate(preset=tiny, plan={"learning_rate": 4e-3}),
        "width 32": Candidate(preset=replace(tiny, width=32)),
    }


CANDIDATES = {"hvae": _hvae(), "refine": _refine(), "diffusion": _diffusion(), "vq": _vq()}
"""By family and name."""
MODULES = {"hvae": hvae, "refine": refine, "diffusion": diffusion, "vq": vq}
