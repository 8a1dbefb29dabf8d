"""Code that looks at a pool's processes from outside to learn whether one has died.

The bare pool loses the task then and hangs, so Hugging Face `datasets` compares
the pids of the workers from time to time, and gives up once they are others.
In a guarded pool the task is answered for, or run again, by a new worker: who
looked at pids would give up before it gets the task's own error. It learns of
no change here. Runs in the thread that asks.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from ...system.patches import Patch

#: The module, and the function in it that returns the pids of a pool.
_DATASETS: Final = ("datasets.utils.py_utils", "_get_pool_pid")

_patches: Final[dict[Any, Patch]] = {}


def settle_pids() -> Patch | None:
    """Have guarded pools look the same all the time; return what to drop with the pool, if anything."""
    module_name, function = _DATASETS
    module = sys.modules.get(module_name)
    if module is None or not hasattr(module, function):
        return None
    patch = _patches.setdefault(module, Patch(module, function, _same_pids))
    patch.take()
    return patch


def _same_pids(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    pool = args[0] if args else kwargs.get("pool")
    # Not those that it had first: an idle worker that dies is replaced as well.
    return set() if hasattr(pool, "_poolwarden") else wrapped(*args, **kwargs)
