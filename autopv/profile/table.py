"""The profile as text: a table of the frames, and in words what the earlier ones add to the last."""

from itertools import pairwise

from autopv.profile.profile import PolicyProfile

# What counts as a gain in words: this many standard errors, and more than the probe's own bias.
_CLEAR_ERRORS = 3
_CLEAR_GAIN = 0.002


def profile_lines(profile: PolicyProfile) -> list[str]:
    """The profile as lines of text: what it was measured on, a table of the frames, and what the early frames add."""
    edges = [f"{edge:g}" for edge in profile.band_edges[:-1]]
    bands = [f"{low}-{high}" for low, high in pairwise(edges)] + [f"{edges[-1]}+"]
    last = profile.frames[-1]
    lines = [
        profile.policy,
        f"{profile.num_images} images of {profile.width_px} x {profile.height_px} px, seed {profile.seed}; "
        "distances: 1 = another image; kept: share of the variance per band (cycles per side); "
        f"R2: the image regressed from {2 * profile.radius + 1} x {2 * profile.radius + 1} px, +- standard error",
    ]
    head = ["frame", "pixel", "feature", *(f"kept {band}" for band in bands), "R2 alone", f"R2 to {last.frame}", "gain"]
    rows = [head]
    for frame in profile.frames:
        rows.append(
            [
                str(frame.frame),
                f"{frame.pixel_distance:.3f}",
                "-" if frame.feature_distance is None else f"{frame.feature_distance:.3f}",
                *(f"{share:.3f}" for share in frame.kept),
                f"{frame.alone:.4f} +- {frame.alone_se:.4f}",
                f"{frame.joint:.4f}",
                f"{frame.gain:+.4f} +- {frame.gain_se:.4f}",
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    added = what_is_added(profile)
    return [*lines, added] if added else lines


def what_is_added(profile: PolicyProfile) -> str:
    """A sentence on what the earlier pseudo frames add to the last one; empty where there is one only."""
    first, last = profile.frames[0], profile.frames[-1]
    if first is last:
        return ""
    others = "frame 1 adds" if last.frame == 2 else f"frames 1 to {last.frame - 1} add"
    text = f"To frame {last.frame} (R2 {last.alone:.4f}) {others} {first.gain:+.4f} +- {first.gain_se:.4f}: "
    if first.gain <= max(_CLEAR_ERRORS * first.gain_se, _CLEAR_GAIN):
        return text + "nothing that this probe can see."
    if profile.first_order:
        return text + (
            "no information, in a first-order chain: it is what the probe's window, the rounding to 8 bits and the "
            f"clamp to [0, 1] hide of frame {last.frame}."
        )
    return text + f"{first.gain / (1 - last.alone):.0%} of what it leaves open."
