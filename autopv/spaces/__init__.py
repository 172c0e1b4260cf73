"""Search spaces: what may vary, as strict TOML, as Optuna distributions, and as policies."""

from autopv.spaces.space import Space

__all__ = ["Space"]
