"""The commands about policies and corruptions, which train nothing."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autopv.errors import InputError

if TYPE_CHECKING:
    from autopv.data.images import ImageSet
    from autopv.policy import Policy

_PICTURE_PX = 64


def preview(arguments: argparse.Namespace) -> int:
    """Draws videos into a picture or an animation."""
    from autopv.policy import Policy
    from autopv.report.preview import check_preview_path, write_preview

    policy = _reordered(Policy.load(arguments.policy), markov_order=arguments.order, randomness=arguments.randomness)
    _check_free(arguments.out)
    check_preview_path(arguments.out)
    image_set = _load(arguments)
    write_preview(policy, image_set, arguments.out, num_images=arguments.n, seed=arguments.seed)
    print(f"{arguments.out}: {policy.describe()}")
    return 0


def ops(arguments: argparse.Namespace) -> int:
    """Prints the table of all ops, or everything about one."""
    from autopv.report.op_table import op_lines, op_page

    print(op_page(arguments.name) if arguments.name else "\n".join(op_lines()))
    return 0


def validate(arguments: argparse.Namespace) -> int:
    """Prints that the file is a policy."""
    from autopv.policy import Policy

    policy = Policy.load(arguments.file)
    print(f"{arguments.file}: valid; {policy.describe()}; digest {policy.short_digest}")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Prints the canonical form as JSON."""
    from autopv.policy import Policy

    print(json.dumps(Policy.load(arguments.file).canonical().to_dict(), indent=2))
    return 0


def diff(arguments: argparse.Namespace) -> int:
    """Prints what differs."""
    from autopv.policy import Policy
    from autopv.policy.diff import diff_lines, provenance_line

    first, second = Policy.load(arguments.first), Policy.load(arguments.second)
    lines = diff_lines(first, second)
    print("\n".join(lines) if lines else f"the same policy (digest {first.short_digest})")
    provenance = provenance_line(first, second)
    if provenance is not None:
        print(provenance)
    return 0


def schema(_: argparse.Namespace) -> int:
    """Prints the JSON schema."""
    from autopv.policy.schema import schema_text

    sys.stdout.write(schema_text())
    return 0


def profile(arguments: argparse.Namespace) -> int:
    """Measures and prints a policy's information profile, and draws it where asked to."""
    from autopv.policy import Policy
    from autopv.profile import draw_profile, profile_lines, profile_policy

    policy = Policy.load(arguments.file)
    if arguments.out is not None:
        _check_free(arguments.out)
    image_set = _load(arguments)
    measured = profile_policy(
        policy,
        image_set.images_NCHW,
        masks_NHW=image_set.masks_NHW,
        seed=arguments.seed,
        num_images=arguments.n,
        with_features=not arguments.no_features,
    )
    print(json.dumps(measured.to_dict(), indent=2) if arguments.json else "\n".join(profile_lines(measured)))
    if arguments.out is not None:
        draw_profile(measured, arguments.out)
        print(f"drawn into {arguments.out}", file=sys.stderr)
    return 0


def _reordered(policy: "Policy", *, markov_order: int | None, randomness: str | None) -> "Policy":
    """The policy with another order or randomness; shared randomness brings the one order that it is defined for."""
    if markov_order is None and randomness == "shared":
        markov_order = max(1, policy.num_frames - 1)
    if markov_order is not None and markov_order < policy.num_frames - 1 and randomness is None:
        randomness = "fresh"
    return replace(policy, markov_order=markov_order or policy.markov_order, randomness=randomness or policy.randomness)


def _load(arguments: argparse.Namespace) -> "ImageSet":
    from autopv.data.images import load_images

    return load_images(
        arguments.data,
        size_px=arguments.size or _PICTURE_PX,
        channels=arguments.channels,
        group_by=arguments.group_by,
        strict=arguments.strict,
    )


def _check_free(path: Path) -> None:
    if path.exists():
        raise InputError(f"--out {path} exists and nothing is overwritten: choose another name.")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}; make it first.")
