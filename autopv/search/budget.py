"""Budgets: what a whole job may cost, as device time, a number of trials, or both."""

import math
import re
from dataclasses import dataclass

from autopv.errors import BudgetError, nearest

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_UNITS = {f"{device}-{unit}": (device, seconds) for device in ("cpu", "gpu") for unit, seconds in _SECONDS.items()}
_PART = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z][A-Za-z-]*)")
_EXAMPLE = "such as 10cpu-min, 2cpu-h, 64gpu-h, 200trials, or several joined by a comma"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most a job may spend; every limit that is given holds.

    device: "cpu" (one core reserved by a worker) or "gpu"; the unit of the budget chooses it.
    device_s: device-seconds over all trials and the verification, or None for no limit.
    trials: search trials, controls included, or None for no limit. Verification runs are not counted.
    """

    device: str = "cpu"
    device_s: float | None = None
    trials: int | None = None

    def __post_init__(self) -> None:
        if self.device_s is None and self.trials is None:
            raise BudgetError(f"A budget needs device time or a number of trials, {_EXAMPLE}.")
        if self.device not in ("cpu", "gpu"):
            raise BudgetError(f"A budget's device must be cpu or gpu, but got {self.device!r}.")
        if self.device_s is not None and not (0 < self.device_s < math.inf):
            raise BudgetError(f"A budget's device time must be a positive number, but got {self.device_s}.")
        if self.trials is not None and self.trials < 1:
            raise BudgetError(f"A budget's number of trials must be at least 1, but got {self.trials}.")

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """The budget that `text` states, for instance `64gpu-h`, `10cpu-min`, `200trials` or `2cpu-h,40trials`.

        Raises:
            BudgetError: an unknown unit, no number, a limit given twice, or cpu and gpu time together.
        """
        device: str | None = None
        device_s: float | None = None
        trials: int | None = None
        for part in text.split(","):
            match = _PART.fullmatch(part.strip())
            if match is None:
                raise BudgetError(f"--budget: each part must be a number and a unit, {_EXAMPLE}, but got {part!r}.")
            number, unit = float(match["number"]), match["unit"]
            if unit in ("trial", "trials"):
                if trials is not None:
                    raise BudgetError(f"--budget: the number of trials is given twice in {text!r}.")
                if number != int(number):
                    raise BudgetError(f"--budget: a number of trials must be whole, but got {part.strip()!r}.")
                trials = int(number)
            elif unit in _UNITS:
                if device_s is not None:
                    raise BudgetError(
                        f"--budget: device time is given twice in {text!r}; one kind of device runs a job."
                    )
                device, seconds = _UNITS[unit]
                device_s = number * seconds
            else:
                hint = nearest(unit.removesuffix("s"), [*_UNITS, "trials"])
                raise BudgetError(f"--budget: unknown unit {unit!r} in {text!r}.{hint}")
        return cls(device=device or "cpu", device_s=device_s, trials=trials)

    def extended(self, text: str) -> "Budget":
        """This budget and the one that `text` adds, for instance `+16gpu-h`.

        Raises:
            BudgetError: no leading +, another device, or a limit that this budget does not have.
        """
        if not text.startswith("+"):
            raise BudgetError(f"--budget of a run that exists is what to add, such as +{text}, but got {text!r}.")
        added = Budget.parse(text[1:].replace(",+", ","))
        if added.device_s is not None and self.device_s is not None and added.device != self.device:
            raise BudgetError(f"--budget {text}: this run is paid in {self.device} time, and so is what is added.")
        for name, has, gets in (
            ("device time", self.device_s, added.device_s),
            ("the number of trials", self.trials, added.trials),
        ):
            if has is None and gets is not None:
                raise BudgetError(f"--budget {text}: this run has no limit on {name} (its budget is {self}).")
        return Budget(
            device=self.device,
            device_s=None if self.device_s is None else self.device_s + (added.device_s or 0.0),
            trials=None if self.trials is None else self.trials + (added.trials or 0),
        )

    def __str__(self) -> str:
        """The text that `parse` reads back to an equal budget, in the largest unit that stays exact."""
        parts = []
        if self.device_s is not None:
            parts.append(device_time_text(self.device_s, device=self.device))
        if self.trials is not None:
            parts.append(f"{self.trials}trials")
        return ",".join(parts)


def device_time_text(device_s: float, *, device: str) -> str:
    """Device-seconds in the notation of `--budget`: hours or minutes where they come out even, else seconds."""
    for unit in ("h", "min"):
        number = device_s / _SECONDS[unit]
        if number >= 1 and math.isclose(number, float(f"{number:.2f}"), rel_tol=0, abs_tol=1e-12):
            return f"{_plain(float(f'{number:.2f}'))}{device}-{unit}"
    return f"{_plain(device_s)}{device}-s"


def rounded_up(device_s: float, *, device: str) -> str:
    """Device-seconds rounded up to a whole number of minutes (hours from five hours on), in budget notation."""
    unit = "h" if device_s > 5 * _SECONDS["h"] else "min"
    return f"{math.ceil(device_s / _SECONDS[unit])}{device}-{unit}"


def _plain(number: float) -> str:
    """A float in decimal notation without an exponent, exact when read back."""
    text = format(number, "f")
    if float(text) != number:
        text = format(number, ".17f")
    return text.rstrip("0").rstrip(".") if "." in text else text
