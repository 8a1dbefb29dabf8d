"""How the contract uses `multiprocess`, the copy of `multiprocessing` that pickles with dill.

Nothing of it is imported before a pool is made, so that this module can be
imported where it is not installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, ClassVar

from tests.hosts.bind_pool import BindPool


def _context(start_method: str, nesting: bool) -> Any:
    """Return a context of this copy; `nesting`: its workers may start processes."""
    context = importlib.import_module("multiprocess").get_context(start_method)
    if not nesting:
        return context

    class NoDaemon(context.Process):  # type: ignore[misc,name-defined]
        daemon = property(lambda self: False, lambda self, value: None)

    return type("NestingContext", (type(context),), {"Process": NoDaemon})()


class BindMultiprocess(BindPool):
    """`multiprocess.Pool`."""

    package: ClassVar[str] = "multiprocess"
    # Pool.__del__, with dill's module cleared already; an idle pool that is bare says so too.
    said_at_exit: ClassVar[str] = r"(?s)Exception ignored .*?Pool\.__del__.*?AttributeError: 'NoneType' .*?\n"

    def make_bare(
        self,
        workers: int = 2,
        start_method: str | None = None,
        *,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        maxtasksperchild: int | None = None,
        nesting: bool = False,
    ) -> Any:
        context = _context(start_method or self.start_methods[0], nesting)
        return context.Pool(workers, initializer, initargs, maxtasksperchild)
