"""Verification in whole blocks: one block trains every arm once, all from the same fresh seed."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopv.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One policy under verification. kind: "control" or "searched"."""

    name: str
    kind: str
    policy: Policy

    def to_dict(self) -> dict[str, Any]:
        """The arm as JSON values."""
        return {"name": self.name, "kind": self.kind, "policy": self.policy.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Arm":
        """The arm that `to_dict` wrote."""
        return cls(name=values["name"], kind=values["kind"], policy=Policy.from_dict(values["policy"], where="arm"))


@dataclass(frozen=True, kw_only=True)
class Distance:
    """One verification run's last-frame distance; None where the run failed."""

    arm: str
    seed: int
    distance: float | None


def fresh_seeds(seed: int, *, num_seeds: int) -> tuple[int, ...]:
    """Seeds that no search trial used, the same for every arm, fixed by the job's seed."""
    return tuple(
        int.from_bytes(hashlib.sha256(f"verify/{seed}/{block}".encode()).digest()[:4], "big") | 2**31
        for block in range(num_seeds)
    )


def complete_blocks(distances: Iterable[Distance], *, arms: Sequence[str]) -> tuple[int, ...]:
    """The seeds for which every arm has ended (a failed run counts as ended), in order of appearance."""
    ended: dict[int, set[str]] = {}
    for result in distances:
        ended.setdefault(result.seed, set()).add(result.arm)
    return tuple(seed for seed, names in ended.items() if names >= set(arms))
