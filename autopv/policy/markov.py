"""Which frame each frame is made from."""


def source_frame(frame: int, *, markov_order: int, num_frames: int) -> int:
    """The frame that `frame` is made from: `markov_order` frames nearer to the image, at most the image itself.

    Order k gives k interleaved chains, from one first-order chain (k = 1) to every frame straight from the image
    (k = num_frames - 1).

    >>> [source_frame(t, markov_order=2, num_frames=6) for t in range(1, 6)]
    [3, 4, 5, 6, 6]
    """
    return min(frame + markov_order, num_frames)
