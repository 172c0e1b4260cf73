"""How much memory images may take before they are read from a file instead of held."""

import os
from pathlib import Path

# Of what is available. Loading, splitting and training hold up to three copies of a set for a moment (as read, as
# asked for, the split that trains), and the model, the metric and other programs need room beside them.
MEMORY_SHARE = 0.25
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def fits_in_memory(num_bytes: int) -> bool:
    """Whether images of so many bytes may be held: at most MEMORY_SHARE of the available memory."""
    return num_bytes <= MEMORY_SHARE * available_bytes()


def available_bytes() -> int:
    """What programs may still take: the system's estimate, or what is left of a container's limit where that is less.

    Where the system gives no estimate, all of the machine's memory.
    """
    system, container = _system_bytes(), _container_bytes()
    return system if container is None else min(system, container)


def _system_bytes() -> int:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        (available,) = (line for line in lines if line.startswith("MemAvailable:"))
        return int(available.split()[1]) * 1024
    except (OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _container_bytes() -> int | None:
    """What is left of the limit of a control group (version 2); None without one."""
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))  # "max" is no number: no limit
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        # Files that were read count as used, and give way when memory is asked for.
        return max(0, limit - used + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return None
