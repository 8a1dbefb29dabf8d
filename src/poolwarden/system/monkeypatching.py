"""Whether the standard library has been patched so that no pool can be watched.

Under gevent and eventlet a thread is a greenlet: all of them stand still while
one waits in a system call, as the watchdog does. Such a pool is left bare.
Runs in the parent; any thread.
"""

from __future__ import annotations

import sys
from typing import Final

#: Module that knows, its function, and the modules of the standard library that are needed unpatched.
_PATCHERS: Final = (
    ("gevent.monkey", "is_module_patched", ("_thread", "threading", "select", "os", "queue")),
    ("eventlet.patcher", "is_monkey_patched", ("thread", "select", "os")),
)


def why_patched() -> str | None:
    """Return what keeps a pool from being watched, None if nothing does."""
    for name, function, needed in _PATCHERS:
        asked = getattr(sys.modules.get(name), function, None)
        patched = [module for module in needed if asked is not None and asked(module)]
        if patched:
            library = name.partition(".")[0]
            return f"{library} has patched the standard library ({', '.join(patched)})"
    return None
