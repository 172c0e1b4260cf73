"""Hypothesis strategies: any valid policy."""

from hypothesis import strategies as st

from autopv.policy import Layer, Policy
from autopv.policy.curves import CURVES
from autopv.policy.ops import get_op, op_names

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def layers(draw: st.DrawFn, *, num_frames: int) -> Layer:
    """Any layer for a video of that many frames."""
    op = get_op(draw(st.sampled_from(op_names())))
    first = draw(st.integers(1, num_frames - 1))
    return Layer(
        op=op.name,
        magnitude=draw(st.just(0.0) | st.floats(op.low, op.high)),
        curve=draw(st.sampled_from(CURVES)),
        frames=(first, draw(st.integers(first, num_frames - 1))),
        probability=draw(st.sampled_from([1.0, 0.0]) | st.floats(0, 1)),
    )


@st.composite
def policies(draw: st.DrawFn, *, max_frames: int = 8) -> Policy:
    """Any policy of at most four layers."""
    num_frames = draw(st.integers(1, max_frames))
    markov_order = draw(st.integers(1, max(1, num_frames - 1)))
    star = markov_order == max(1, num_frames - 1)
    return Policy(
        num_frames=num_frames,
        markov_order=markov_order,
        randomness=draw(st.sampled_from(["fresh", "shared"])) if star else "fresh",
        frame_loss_weight=draw(st.floats(0, 10, exclude_min=True)),
        frame_loss_until=draw(st.just(1.0) | st.floats(0, 1, exclude_min=True)),
        layers=draw(st.lists(layers(num_frames=num_frames), max_size=4).map(tuple)) if num_frames > 1 else (),
        provenance=draw(st.none() | st.dictionaries(st.text(), JSON_VALUES, max_size=3)),
    )
