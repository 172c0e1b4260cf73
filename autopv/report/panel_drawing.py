"""What the live panel looks like: one picture of what is known of a job."""

from collections.abc import Iterator
from statistics import median

from rich.box import ROUNDED
from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group
from rich.panel import Panel
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from autopv.report.numbers import distance_text
from autopv.report.run_state import RunState
from autopv.report.training_lines import duration_text
from autopv.search.budget import Budget
from autopv.verify.controls import IMAGE_ONLY
from autopv.verify.statistics import CONFIDENCE, MIN_BLOCKS

_WIDEST = 100
# A ^C that the terminal echoes behind the last line must not break it.
_MARGIN = 4
_NAMED_RUNNING = 4
_CAUSES = 4
_NO_INTERVAL = "one seed each and the best of many, so no interval yet"
_HOUR_S, _MIN_S = 3600.0, 60.0


def draw_panel(state: RunState, *, width: int, elapsed_s: float) -> ConsoleRenderable:
    """The panel, at most `width` columns wide; elapsed_s: since this launch began."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(ratio=1)
    for name, lines in _rows(state, elapsed_s=elapsed_s):
        table.add_row(name, Group(*lines))
    return Panel(table, box=ROUNDED, title="autopv", title_align="left", width=max(20, min(_WIDEST, width - _MARGIN)))


def _rows(state: RunState, *, elapsed_s: float) -> Iterator[tuple[str, list[ConsoleRenderable]]]:
    yield "phase", [Text(_phase_text(state, elapsed_s=elapsed_s))]
    if state.budget is not None:
        yield "budget", _budget_lines(state)
    if state.items:
        best = _verified_lines(state) if state.item_phase == "verify" else _searched_lines(state)
        yield "best", [Text(line) for line in best]
        yield ("runs" if state.item_phase == "verify" else "trials"), [Text(line) for line in _item_lines(state)]
        yield "running", [Text(_running_text(state))]
    failures = state.failures()
    if failures:
        causes = [f"{count} x {cause}" for cause, count in failures.most_common(_CAUSES)]
        if len(failures) > _CAUSES:
            causes.append(f"and {len(failures) - _CAUSES} other causes")
        yield "failed", [Text(cause, style="red", no_wrap=True, overflow="ellipsis") for cause in causes]
    lost = [f"{state.num_workers_lost} lost"] if state.num_workers_lost else []
    lost += [f"Ray started again {state.num_breakdowns} times"] if state.num_breakdowns else []
    if lost:
        yield "workers", [Text(", ".join(lost), style="yellow")]


def _phase_text(state: RunState, *, elapsed_s: float) -> str:
    workers = "" if state.num_workers is None else f", {state.num_workers} worker{'s' * (state.num_workers > 1)}"
    return f"{_phase_name(state)}, {duration_text(elapsed_s)}{workers}"


def _phase_name(state: RunState) -> str:
    match state.phase:
        case "calibrating":
            return "measuring the speed of this machine"
        case "search" | "verify" if not state.of_phase(state.phase):
            return "starting the workers"
        case "search":
            return "search"
        case "verify":
            evidence = state.evidence()
            num_blocks = 0 if evidence is None else len(evidence.seeds)
            return f"verification of {len(state.arms)} arms, {num_blocks} complete block{'s' * (num_blocks != 1)}"
        case "concluded":
            return f"concluded: {state.conclusion}"
        case other:
            return other


def _budget_lines(state: RunState) -> list[ConsoleRenderable]:
    budget, eta_s = state.budget, state.eta_s
    assert budget is not None
    eta = "" if eta_s is None or state.phase == "concluded" else f", about {duration_text(eta_s)} at this rate"
    scale_s, unit = _unit(budget, spent_s=state.spent_s)
    lines: list[ConsoleRenderable] = []
    if budget.device_s is None:
        planned = state.num_planned
        if planned:
            what = "runs" if state.item_phase == "verify" else "trials"
            lines.append(_Bar(done=state.num_ended / planned))
            lines.append(Text(f"{state.num_ended} of {planned} {what} ended{eta}"))
        return [*lines, Text(f"{state.spent_s / scale_s:.1f} {unit} spent")]
    left_s = state.left_s or 0.0
    lines.append(_Bar(done=state.spent_s / budget.device_s, kept=state.reserve_s / budget.device_s))
    spent = f"{state.spent_s / scale_s:.1f} of {budget.device_s / scale_s:.1f} {unit} spent"
    lines.append(Text(f"{spent}, {left_s / scale_s:.1f} left{eta}"))
    if state.reserve_s:
        lines.append(Text(f"{state.reserve_s / scale_s:.1f} of it kept back for the verification"))
    return lines


def _unit(budget: Budget, *, spent_s: float) -> tuple[float, str]:
    """Seconds per unit, and the unit, in which a budget is easy to read."""
    whole_s = budget.device_s or spent_s
    if whole_s >= 5 * _HOUR_S:
        return _HOUR_S, f"{budget.device}-h"
    return (_MIN_S, f"{budget.device}-min") if whole_s >= 2 * _MIN_S else (1.0, f"{budget.device}-s")


def _searched_lines(state: RunState) -> list[str]:
    """The best trial against image-only's own: one seed each, so without an interval."""
    best, reference, floor = state.best("search"), state.reference(), state.floors.get("search")
    if best is None or best.distance is None:
        return ["no trial is at full compute yet"]
    if floor is None:
        return [f"{best.label}: distance {distance_text(best.distance)}"]
    excess = best.distance - floor
    if reference is None or reference.distance is None:
        return [f"{best.label}: excess {distance_text(excess)}; image-only is not measured yet"]
    reference_excess = reference.distance - floor
    if best is reference:
        return [f"image-only: excess {distance_text(excess)}; no other trial is below it", _NO_INTERVAL]
    change = f"{100 * (excess / reference_excess - 1):+.1f}%, " if reference_excess > 0 else ""
    return [
        f"{best.label}: excess {distance_text(excess)} ({change}image-only {distance_text(reference_excess)})",
        _NO_INTERVAL,
    ]


def _verified_lines(state: RunState) -> list[str]:
    """The best arm against image-only with the interval that the verdict would state now."""
    evidence = state.evidence()
    if evidence is None or not evidence.seeds:
        return ["no block is complete yet"]
    if IMAGE_ONLY in evidence.failed:
        return ["image-only failed, so there is nothing to compare with"]
    others = [c for c in evidence.comparisons if c.arm != IMAGE_ONLY and c.gain is not None]
    if not others:
        return ["image-only is at the floor" if evidence.comparisons else "nothing to compare"]
    best = min(others, key=lambda c: c.mean_distance)
    assert best.gain is not None
    seeds = f"{best.num_seeds} fresh seed{'s' * (best.num_seeds > 1)}"
    line = f"{best.arm}: {_change(best.gain)} of image-only's excess"
    if best.gain_low is None or best.gain_high is None:
        return [line, f"{seeds} per arm; an interval needs {MIN_BLOCKS}"]
    interval = f"{_change(best.gain_high)} to {_change(best.gain_low)}"
    return [line, f"{CONFIDENCE:.0%} interval {interval}, {seeds} per arm"]


def _change(gain: float) -> str:
    """A gain as a change of excess, as the verdict states it."""
    return f"{-100 * gain:+.0f}%"


def _item_lines(state: RunState) -> list[str]:
    phase = state.item_phase
    counts = state.counts(phase)
    of = f" of {state.num_planned}" if state.num_planned else ""
    told = [f"{counts[s]} {s}" for s in ("running", "waiting", "complete", "stopped", "failed", "unpaid") if counts[s]]
    lines = [f"{counts.total()}{of} started: {', '.join(told)}"]
    if phase == "search":
        lines += [f"rung {rung:>4.0%}: {text}" for rung in state.rungs if (text := _rung_text(state, rung=rung))]
    return lines


def _rung_text(state: RunState, *, rung: float) -> str:
    """Trials on their way to a rung, and what became of those that reached it; nothing where there are none."""
    trials = state.of_phase("search")
    ahead = [t for t in trials if t.last_rung < rung and not any(t.last_rung < r < rung for r in state.rungs)]
    here = [t for t in trials if t.last_rung == rung]
    is_last = rung == state.rungs[-1]
    told = {
        "running to it": sum(t.status == "running" for t in ahead),
        "waiting for it": sum(t.status == "waiting" for t in ahead),
        "stopped": sum(t.status == "stopped" for t in here),
        "complete" if is_last else "went on": sum(t.last_rung >= rung for t in trials)
        - sum(t.status in ("stopped", "failed", "unpaid") for t in here),
    }
    return ", ".join(f"{count} {what}" for what, count in told.items() if count)


def _running_text(state: RunState) -> str:
    running = state.of_phase(state.item_phase, status="running")
    if not running:
        return "nothing"
    if len(running) <= _NAMED_RUNNING:
        return ", ".join(f"{item.label} {item.progress:.0%}" for item in running)
    shares = [item.progress for item in running]
    return f"{len(running)} at {min(shares):.0%} to {max(shares):.0%}, half of them past {median(shares):.0%}"


class _Bar:
    """A bar as wide as there is room: what is done, what is free, and what is kept back at its end."""

    def __init__(self, *, done: float, kept: float = 0.0) -> None:
        self._done, self._kept = min(1.0, max(0.0, done)), min(1.0, max(0.0, kept))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        width = options.max_width - 5
        done, kept = round(self._done * width), round(self._kept * width)
        kept = min(kept, width - done)
        full, free, back = "#-." if options.ascii_only else "━─┄"
        yield Segment(full * done, Style(color="green", bold=True))
        yield Segment(free * (width - done - kept), Style(dim=True))
        yield Segment(back * kept, Style(color="yellow"))
        yield Segment(f" {self._done:4.0%}")
        yield Segment.line()
