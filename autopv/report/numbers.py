"""Distances in print: extractors differ in scale by orders of magnitude."""

# From here on a digit after the point is below any distance's own noise.
_LARGE = 10
# Standard errors to either side that make an interval of 95%.
REACH = 1.96


def distance_text(value: float) -> str:
    """The number with a digit after the point, or, where it is small, with three digits in all.

    >>> distance_text(1028.94), distance_text(7.271), distance_text(-0.012345)
    ('1028.9', '7.27', '-0.0123')
    """
    return f"{value:.1f}" if abs(value) >= _LARGE or value == 0 else f"{value:.3g}"


def interval_text(value: float, *, standard_error: float) -> str:
    """The number with half of its 95% interval.

    >>> interval_text(12.34, standard_error=5)
    '12.3 ± 9.8'
    """
    return f"{value:.1f} ± {REACH * standard_error:.1f}"
