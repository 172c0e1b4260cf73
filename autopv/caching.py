"""Where autopv keeps what it can make or fetch again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/autopv, or ~/.cache/autopv."""
    # The specification says to ignore relative paths here.
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path(os.path.expanduser("~/.cache"))) / "autopv"
