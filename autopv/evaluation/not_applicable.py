"""A figure that these images do not allow, and why."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NotApplicable:
    """Stands in the place of a figure: the rule that the images break, with the numbers, and what would help."""

    reason: str
