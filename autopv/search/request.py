"""What a user asks of a search, whether it can be asked, and how its budget is then used."""

from dataclasses import dataclass
from pathlib import Path

from autopv.errors import InputError, nearest
from autopv.search.budget import Budget
from autopv.search.conclusion import NUM_SEARCHED_ARMS
from autopv.search.planning import SearchPlan, plan_search
from autopv.search.samplers import check_sampler
from autopv.search.screen import LEAST_LEFT
from autopv.search.spending import Speed
from autopv.search.study import STOPPING
from autopv.search.target import train_steps
from autopv.training.material import Setup
from autopv.training.plan import TrainingPlan

# experiments/effect: a look at half of a training ranks policies as its end does with rho = 0.7, one at a quarter
# with 0.3 to 0.5, one at an eighth hardly at all. So nothing is stopped before half, and then only the worse half.
RUNGS = (0.5, 1.0)
# More looks for the curve, where it must be drawn beyond the trials.
_RUNGS_TO_EXTRAPOLATE = (0.25, *RUNGS)
# Of a full trial's compute, what one takes on average.
_MEAN_SHARE = {"halving": 0.75, "none": 1.0, "top-k": 0.85}


@dataclass(frozen=True, kw_only=True)
class SearchRequest(Setup):
    """What the user asks of a search; None leaves the choice to autopv.

    batch_size, learning_rate, kl_weight, flips: of the training plan, as in `autopv train`.
    screen: what a policy's frames must leave of the image to be tried, as R^2.
    train_for: the training that the policy is for: `trial`, a number of image-only steps, or device time.
    warm_start: policy files and run folders with policies to try first.
    """

    budget: Budget
    out: Path
    space: str = "stage2_expressive"
    sampler: str = "tpe"
    stopping: str = "halving"
    repeat_share: float = 0.25
    screen: float = LEAST_LEFT
    train_for: str = "trial"
    warm_start: tuple[str, ...] = ()
    num_seeds: int = 3
    num_workers: int | None = None
    trials_per_gpu: int = 1
    address: str | None = None
    trial_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    kl_weight: float | None = None
    flips: bool = False

    @property
    def training(self) -> TrainingPlan:
        """How trials are trained; its length is still to be set. Raises: InputError where a value breaks its rule."""
        return TrainingPlan.asked(
            model=self.model,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            kl_weight=self.kl_weight,
            flips=self.flips,
        )


def check_request(request: SearchRequest) -> None:
    """Nothing, if what can be known without the images is as it should be. Raises: InputError."""
    check_sampler(request.sampler)
    if request.stopping not in STOPPING:
        raise InputError(f"unknown stopping {request.stopping!r}.{nearest(request.stopping, STOPPING)}")
    if not 0 <= request.repeat_share < 1:
        raise InputError(f"--repeats must be a share of the trials from 0 to below 1, got {request.repeat_share}")
    if not 0 <= request.screen < 1:
        raise InputError(
            f"--screen must be an R^2 from 0 to below 1, got {request.screen}; 0 tries every policy, the default is "
            f"{LEAST_LEFT}"
        )
    _ = request.training
    train_steps(request.train_for, device=request.budget.device, step_s=1.0)


def plan_request(
    request: SearchRequest, *, speed: Speed, flops_per_step: float, num_controls: int, num_workers: int
) -> tuple[SearchPlan, tuple[float, ...], int | None]:
    """How the budget is used, the rungs of a trial, and the steps of the training it is for (None: a trial's).

    Raises: BudgetError where it pays for nothing.
    """
    target = train_steps(request.train_for, device=request.budget.device, step_s=flops_per_step * speed.s_per_flop)

    def planned(rungs: tuple[float, ...]) -> SearchPlan:
        return plan_search(
            request.budget,
            speed=speed,
            flops_per_step=flops_per_step,
            num_rungs=len(rungs),
            num_controls=num_controls,
            num_arms=num_controls + NUM_SEARCHED_ARMS,
            num_seeds=request.num_seeds,
            num_workers=num_workers,
            trial_steps=request.trial_steps,
            train_steps=target,
            mean_share=(1 - request.repeat_share) * _MEAN_SHARE[request.stopping] + request.repeat_share,
        )

    rungs: tuple[float, ...] = RUNGS if request.stopping != "none" else RUNGS[-1:]
    plan = planned(rungs)
    if target is not None and plan.trial_steps < target:
        rungs = _RUNGS_TO_EXTRAPOLATE
        plan = planned(rungs)
    return plan, rungs, target
