"""The canonical form of a policy: what cannot change the rendered distribution is normalised away.

Two policies that differ in such things only are one policy: they share a digest, and a search tries them once.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autopv.policy.policy import Layer, Policy


def canonical_policy(policy: "Policy") -> "Policy":
    """The canonical form, provenance kept.

    A video whose frames are all the image trains the last frame only, however long it is: that is image-only.
    """
    layers = _merged([_plain_curve(layer) for layer in policy.layers if layer.magnitude > 0 and layer.probability > 0])
    if not layers:
        return type(policy)(provenance=policy.provenance)
    last_corrupted = max(layer.frames[1] for layer in layers)
    markov_order = policy.markov_order
    if markov_order >= last_corrupted:  # every frame comes from one that is still the image
        markov_order = policy.num_frames - 1
    if len(layers) == 1 and layers[0].definition.deterministic and layers[0].definition.exact:
        markov_order = 1
    random_ops = any(not layer.definition.deterministic for layer in layers)
    shared = policy.randomness == "shared" and random_ops and last_corrupted > 1
    return replace(policy, markov_order=markov_order, randomness="shared" if shared else "fresh", layers=tuple(layers))


def _plain_curve(layer: "Layer") -> "Layer":
    """The layer, its curve "linear" where the curve takes no value between 0 and 1."""
    return replace(layer, curve="linear") if layer.frames[0] == layer.frames[1] else layer


def _merged(layers: "list[Layer]") -> "list[Layer]":
    """The layers, neighbours of the same op made one where one is exactly their product."""
    result: list[Layer] = []
    for layer in layers:
        together = _merged_pair(result[-1], layer) if result else None
        if together is None:
            result.append(layer)
        else:
            result[-1] = together
    return result


def _merged_pair(first: "Layer", second: "Layer") -> "Layer | None":
    if (first.op, first.curve, first.frames) != (second.op, second.curve, second.frames):
        return None
    if first.probability < 1 or second.probability < 1:  # two coins are not one
        return None
    op = first.definition
    magnitude = op.merged(first.magnitude, second.magnitude, constant=first.frames[0] == first.frames[1])
    return None if magnitude is None or magnitude > op.high else replace(first, magnitude=magnitude)
