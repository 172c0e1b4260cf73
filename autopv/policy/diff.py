"""What differs between two policies, in lines to read."""

import dataclasses
from collections.abc import Sequence
from functools import cache

from autopv.policy import rules
from autopv.policy.policy import Layer, Policy
from autopv.policy.text import layer_text, number_text

_MAX_NAMES = 8
"""A provenance may hold any number of keys, of which one line can name some."""


def diff_lines(a: Policy, b: Policy) -> list[str]:
    """One line for every difference of the canonical forms; none where the policies render and weigh alike.

    Layers are compared in pairs of the same op, in their order; one that has no partner is `-` (in `a` only) or `+`
    (in `b` only). Numbers of layers count from 1 in the canonical form, those of `-` in that of `a`, others in `b`'s.

    >>> a = Policy.parse("T=4 order=1 fresh weight=0.1: erase area=0.4 linear 1-3")
    >>> b = Policy.parse("T=6 order=1 fresh weight=0.1: gaussian_blur sigma=0.1 linear 1-5 > erase area=0.3 linear 1-3")
    >>> diff_lines(a, b)
    ['num_frames: 4 -> 6', '+ layer 1 gaussian_blur sigma=0.1 linear 1-5', 'layer 2 erase: area 0.4 -> 0.3']
    """
    a, b = a.canonical(), b.canonical()
    keys = [field.name for field in dataclasses.fields(Policy) if field.name not in ("layers", "provenance")]
    lines = [f"{key}: {change}" for key in keys if (change := _change(getattr(a, key), getattr(b, key)))]
    for i, j in _partners(a.layers, b.layers):
        if j is None:
            lines += [f"- layer {i + 1} {layer_text(a.layers[i])}"] if i is not None else []
        elif i is None:
            lines.append(f"+ layer {j + 1} {layer_text(b.layers[j])}")
        else:
            at = f"layer {j + 1} {b.layers[j].op}"
            lines += [f"{at}: {change}" for change in _layer_changes(a.layers[i], b.layers[j])]
    return lines


def provenance_line(a: Policy, b: Policy) -> str | None:
    """One line that names what the provenances differ in, or None. It is no difference of the policies themselves."""
    first, second = a.provenance or {}, b.provenance or {}
    absent = object()
    names = sorted(key for key in {**first, **second} if first.get(key, absent) != second.get(key, absent))
    if not names:
        return None
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"provenance (no part of the policy) differs in {', '.join(map(rules.show_key, names[:_MAX_NAMES]))}{more}"


def _layer_changes(first: Layer, second: Layer) -> list[str]:
    """What differs between two layers of one op."""
    changes = {
        first.definition.magnitude_name: _change(first.magnitude, second.magnitude),
        "curve": _change(first.curve, second.curve),
        "frames": _change("{}-{}".format(*first.frames), "{}-{}".format(*second.frames)),
        "probability": _change(first.probability, second.probability),
    }
    return [f"{name} {change}" for name, change in changes.items() if change]


def _change(first: object, second: object) -> str:
    if first == second:
        return ""
    before, after = (number_text(value) if isinstance(value, float) else value for value in (first, second))
    return f"{before} -> {after}"


def _partners(first: Sequence[Layer], second: Sequence[Layer]) -> Sequence[tuple[int | None, int | None]]:
    """Both sequences' indices in order, in pairs of one op: as many pairs as there can be, then the most alike."""
    Found = tuple[int, int, tuple[tuple[int | None, int | None], ...]]

    @cache
    def best(i: int, j: int) -> Found:
        """(pairs, minus their differences, the indices) for what follows i and j."""
        if i == len(first) or j == len(second):
            rest = *((left, None) for left in range(i, len(first))), *((None, right) for right in range(j, len(second)))
            return 0, 0, rest
        found: list[Found] = []
        if first[i].op == second[j].op:
            pairs, likeness, rest = best(i + 1, j + 1)
            found.append((pairs + 1, likeness - len(_layer_changes(first[i], second[j])), ((i, j), *rest)))
        pairs, likeness, rest = best(i + 1, j)
        found.append((pairs, likeness, ((i, None), *rest)))
        pairs, likeness, rest = best(i, j + 1)
        found.append((pairs, likeness, ((None, j), *rest)))
        return max(found, key=lambda one: one[:2])

    return best(0, 0)[2]
