"""How often an item lost its worker, and why; an item that keeps losing it at one point must end as failed."""

from autopv.search.ledger import Ledger

_STATE = "lost_workers"
# An item is begun again after so many losses at about the same point of its training; the next one ends it.
MOST_LOSSES = 3
# Losses further back than this share of the training are forgiven: on machines that come and go, items do get on.
_NEARBY = 0.1


class Losses:
    """Counts the lost workers of each item, in the ledger: across launches of Ray and drivers."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def record(self, key: str, *, progress: float) -> int:
        """Writes down a loss at that share of the item's training; returns how many it had at about that share."""
        known = self._known()
        known[key] = [*known.get(key, []), round(progress, 4)]
        self._ledger.set_state(_STATE, known)
        return sum(lost > progress - _NEARBY for lost in known[key])

    def _known(self) -> dict[str, list[float]]:
        known = self._ledger.get_state(_STATE)
        return known if isinstance(known, dict) else {}


def cause_of(error: BaseException | None, *, hung: str | None) -> str:
    """Why a worker was lost, in words for people.

    error: as Ray gives it. hung: what is known of it if the worker was ended for its silence.
    """
    from ray.exceptions import RayTaskError

    if hung is not None:
        return hung
    if error is None:
        return "the worker was lost"
    text = str(error).strip()
    if "OutOfMemoryError" in text or "low on memory" in text:
        return "its machine ran out of memory, and Ray ended its worker"
    if isinstance(error, RayTaskError):
        return text.splitlines()[-1][:300]
    if "node" in text and ("died" in text or "dead" in text) and "worker process has died" not in text:
        return "its machine was lost"
    if "worker process has died" in text:
        return "its worker was killed (if by the system, then for want of memory) or crashed"
    return text.splitlines()[-1][:300]
