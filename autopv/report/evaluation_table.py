"""An evaluation in words: tables for the terminal, from the record that `evaluate` makes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autopv.report.numbers import REACH

_FIGURES = ("precision", "recall", "density", "coverage")
# What draws alone would show this rarely.
_SIGNIFICANT = 0.01
# Of a name in a table: paths may be far longer.
_MAX_NAME = 36
# Beyond, a number of images is no advice.
_MAX_NEEDED = 100_000


def evaluation_text(record: Mapping[str, Any]) -> str:
    """The whole evaluation as text, most important figures first."""
    return "\n".join(_lines(record))


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    metrics = record["metrics"]
    extractor = record["extractor"]
    sets = record["sets"]
    names = _short_names([*sets])
    by_role = {one["role"]: (label, one["num_images"]) for label, one in sets.items()}
    reference, num_reference = by_role["reference"]
    floor = "{} ({})".format(*by_role["train"]) if "train" in by_role else "one half against the other"
    yield f"Real images: {reference} ({num_reference}); floor: {floor}"
    yield (
        f"{extractor['extractor']} features at {extractor['input_size_px']} px of images at {extractor['size_px']} px; "
        f"n = {record['num_images']} real, {record['num_generated']} generated; ± and [ ]: "
        f"{record['confidence']:.0%} intervals over draws of images"
    )
    yield ""
    yield from _table(
        (
            "set",
            "images",
            f"{metrics['fd']}",
            "excess",
            f"{metrics['kid']} x1000",
            "excess",
            *_FIGURES,
        ),
        [
            _row("real images (floor)", "", record["floor"]),
            *(_row(names[label], str(sets[label]["num_images"]), told) for label, told in record["generated"].items()),
        ],
    )
    if record["comparisons"]:
        yield ""
    for comparison in record["comparisons"]:
        yield _comparison(comparison, name=metrics[comparison["distance"]], names=names)
    if record["comparisons"]:
        yield (
            "These intervals speak of these images alone. Another training seed moves a distance as much or more; "
            "to compare methods, compare several trainings (`autopv search` does)."
        )
    for label, told in record["generated"].items():
        yield ""
        yield f"{label}:"
        yield from ("  " + line for line in _set_lines(told, fd=metrics["fd"], kid=metrics["kid"]))
    if record["notes"]:
        yield ""
        yield from (f"Note: {note}." for note in record["notes"])


def _row(label: str, num_images: str, told: Mapping[str, Any]) -> tuple[str, ...]:
    figures = (f"{told[name]['value']:.2f}" for name in _FIGURES)
    return label, num_images, *_distance(told, "fd"), *_distance(told, "kid"), *figures


def _distance(told: Mapping[str, Any], distance: str) -> tuple[str, str]:
    one = told[distance]
    excess = one.get("excess")
    return _with_error(one), "" if excess is None else _with_error(excess)


def _with_error(one: Mapping[str, float]) -> str:
    reach = (one["high"] - one["low"]) / 2
    return f"{one['value']:.1f} ± {reach:.1f}"


def _short_names(labels: Sequence[str]) -> dict[str, str]:
    """The names, long ones by their ends alone where those still tell them apart."""
    short = {label: label if len(label) <= _MAX_NAME else f"…{label[1 - _MAX_NAME :]}" for label in labels}
    return short if len(set(short.values())) == len(labels) else {label: label for label in labels}


def _comparison(comparison: Mapping[str, Any], *, name: str, names: Mapping[str, str]) -> str:
    first, second = names[comparison["first"]], names[comparison["second"]]
    found = (
        f"{name}: {first} - {second} = {comparison['value']:+.1f} [{comparison['low']:+.1f}, {comparison['high']:+.1f}]"
    )
    if not comparison["tie"]:
        return f"{found}: {names[comparison['nearer']]} is nearer to the real images"
    needed = comparison["num_images_to_resolve"]
    if needed is None:
        return f"{found}: a tie"
    many = f"about {needed:,}" if needed <= _MAX_NEEDED else f"more than {_MAX_NEEDED:,}"
    return f"{found}: a tie; {many} images a side would tell them apart, if the difference is real"


def _set_lines(told: Mapping[str, Any], *, fd: str, kid: str) -> Iterator[str]:
    yield from _memory_lines(told["memorisation"])
    yield from _class_lines(told["classes"], fd=fd, kid=kid)
    yield from _defect_lines(told["defects"], fd=fd, kid=kid)
    yield from _usefulness_lines(told["usefulness"])


def _memory_lines(one: Mapping[str, Any]) -> Iterator[str]:
    if "not_applicable" in one:
        yield f"memorisation: {one['not_applicable']}"
        return
    verdict = "no more than chance"
    if one["p_value"] < _SIGNIFICANT:
        verdict = "more than chance, copies or images simpler than real ones, look at the pairs"
    copies = f", {one['num_copies']} of them copies" if one["num_copies"] else ""
    yield (
        f"memorisation: {one['num_near']} of {one['num_generated']} images ({one['share_near']:.1%}) are as near to a "
        f"training image as only {one['expected_share']:.1%} of held-out real images are{copies}: {verdict} "
        f"(p = {one['p_value']:.2g}; data-copying z = {one['copying_z']:+.1f}, far below 0 for copies)"
    )


def _class_lines(one: Mapping[str, Any], *, fd: str, kid: str) -> Iterator[str]:
    if "not_applicable" in one:
        yield f"by class: {one['not_applicable']}"
        return
    yield f"by class (shares differ by {one['share_distance']:.0%}):"
    rows = []
    for name, found in one["distances"].items():
        distance = "too few" if found["fd"] is None else f"{found['fd']:.1f} (n = {found['num_fd']})"
        floor = "" if found["fd_floor"] is None else f"{found['fd_floor']:.1f}"
        counts = f"{found['num_reference']}, {found['num_generated']}"
        rows.append((name, counts, _with_error(found["kid"]), distance, floor))
    header = ("class", "real, generated", f"{kid} x1000", fd, "floor")
    yield from ("  " + line for line in _table(header, rows))
    for key, what in (
        ("only_reference", "never generated"),
        ("only_generated", "not among the real ones"),
        ("too_few", "too few images"),
    ):
        if one[key]:
            yield f"  {what}: {', '.join(one[key])}"


def _defect_lines(one: Mapping[str, Any], *, fd: str, kid: str) -> Iterator[str]:
    if "not_applicable" in one:
        yield f"defects: {one['not_applicable']}"
    elif one["kind"] == "distance":
        yield (
            f"defects (crops around {one['num_defects']} of them a side): "
            + "; ".join(
                f"{name} {found['value']:.1f} ± {REACH * found['standard_error']:.1f}, floor {found['floor']:.1f}"
                for name, found in ((fd, one["fd"]), (f"{kid} x1000", one["kid"]))
            )
        )
    else:
        background = one["background"]
        without = "" if background is None else f", as many without any defect that of {background['value']:.0%}"
        yield (
            f"defects: any {one['num_images']} of these images hold the like of {one['covered']['value']:.0%} ± "
            f"{REACH * one['covered']['standard_error']:.0%} of {one['num_defects']} held-out real defects; as many "
            f"real images hold that of {one['real']['value']:.0%}{without}"
        )


def _usefulness_lines(one: Mapping[str, Any]) -> Iterator[str]:
    if "not_applicable" in one:
        yield f"usefulness: {one['not_applicable']}"
        return
    changes = []
    for score, name in (("balanced_accuracy", "balanced accuracy"), ("macro_auroc", "AUROC")):
        found = one[score]
        verdict = "a tie" if found["tie"] else "better" if found["change"] > 0 else "worse"
        changes.append(
            f"{name} {found['real']:.3f} becomes {found['with_generated']:.3f}, {found['change']:+.3f} "
            f"[{found['low']:+.3f}, {found['high']:+.3f}], {verdict}"
        )
    yield (
        f"usefulness (a classifier of {len(one['classes'])} classes, trained on {one['num_train']} real images, then "
        f"on these too, tested on {one['num_test']} held-out ones):"
    )
    yield from ("  " + change for change in changes)
    if one["left_out"]:
        yield "  left out: " + "; ".join(f"{name} has {reason}" for name, reason in one["left_out"].items())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
