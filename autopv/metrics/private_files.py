"""Files that only their owner can change: a network is a program, and weights decide every number."""

import grp
import os
import pwd
import stat
from pathlib import Path

from autopv.errors import MetricError


def check_private(path: Path) -> None:
    """Nothing, where no other user can change the file or folder, or put another in its place; else raises MetricError.

    Looked at are the owner and the permissions of the path, of the folder it lies in, and of all folders above those.
    """
    path = path.resolve()
    if path.is_file():
        _check(path, remedy=f"run `chmod go-w {path}`")
        path = path.parent
    _check(path, remedy=f"run `chmod go-w {path}`, or use a folder of your own")
    for folder in path.parents:
        # In a sticky folder such as /tmp others can add, but not replace.
        if not folder.stat().st_mode & stat.S_ISVTX:
            _check(folder, remedy=f"run `chmod go-w {folder}`, or use a folder of your own")


def _check(path: Path, *, remedy: str) -> None:
    status = path.stat()
    others = None
    # Root reads what a container mounts from its host, whose owner is a number that means nothing inside.
    if os.geteuid() != 0 and status.st_uid not in (0, os.geteuid()):
        others = f"it belongs to user {status.st_uid}"
        remedy = "copy it to a folder of your own"
    elif status.st_mode & stat.S_IWOTH:
        others = "everybody can write to it"
    elif status.st_mode & stat.S_IWGRP and not _is_own_group(status.st_gid, owner=status.st_uid):
        others = f"group {status.st_gid} can write to it"
    if others:
        raise MetricError(
            f"networks and weights are loaded only from where no other user can change them, but {path}: "
            f"{others}; {remedy}"
        )


def _is_own_group(group: int, *, owner: int) -> bool:
    """Whether the group holds the owner alone, as the private groups do that Linux distributions give every user."""
    try:
        entry, user = grp.getgrgid(group), pwd.getpwuid(owner)
    except KeyError:
        return False
    return entry.gr_name == user.pw_name and set(entry.gr_mem) <= {user.pw_name}
