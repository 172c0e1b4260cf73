"""What numbers were made with: package versions, device, and the commit of a checkout."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

_ROOT = Path(__file__).parent.parent.parent
_PACKAGES = ("torch", "torchvision", "ray", "optuna", "numpy")


def environment(*, budget_device: str) -> dict[str, str]:
    """Versions, device name and, where autopv runs from a git checkout, its commit (`-dirty` if files were changed)."""
    device = _cpu_name()
    if budget_device == "gpu":
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "GPUs of a cluster"
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "device": device,
        "commit": _commit(),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    if not (_ROOT / "pyproject.toml").exists():
        return "not a checkout"
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "not a checkout"
    return done.stdout.strip()
