"""The corruptions, one per file. Importing this package registers every one of them under its short name."""

import importlib
import pkgutil

from autopv.policy.ops.base import Op, get_op, op_names, register

__all__ = ["Op", "get_op", "op_names", "register"]

# A new op is a new file here: nothing else has to name it.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
