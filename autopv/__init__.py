"""autopv: find the pseudo-video corruption policy that improves an image generator on your own images."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Policy", "__version__"]

if TYPE_CHECKING:
    from autopv.policy.policy import Policy


def __getattr__(name: str) -> Any:
    """`autopv.Policy`, imported on first use: it needs torch, and `import autopv` should not."""
    if name == "Policy":
        from autopv.policy.policy import Policy

        return Policy
    raise AttributeError(f"module 'autopv' has no attribute {name!r}")
