"""How the contract uses loky: its executor, the reusable one, and the copy in joblib.

Nothing of loky is imported before a pool is made, so that this module can be
imported where loky is not installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, ClassVar

from poolwarden import guard
from tests.contract.tasks import square
from tests.hosts.bind_executor import BindExecutor


class BindLoky(BindExecutor):
    """``loky.ProcessPoolExecutor`` under loky's own start method, which is its default."""

    package: ClassVar[str] = "loky"
    start_methods = ("loky",)

    @property
    def host_error(self) -> type[BaseException]:  # type: ignore[override]
        """What users of this copy of loky catch today."""
        error: type[BaseException] = self.module("process_executor").TerminatedWorkerError
        return error

    def module(self, name: str) -> Any:
        """Return a module of this copy of loky."""
        return importlib.import_module(f"{self.package}.{name}")

    def make_bare(
        self,
        workers: int = 2,
        start_method: str | None = None,
        *,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        nesting: bool = False,
        **options: Any,
    ) -> Any:
        """Return a new executor; `options` are loky's."""
        context = self.module("backend").get_context(start_method or self.start_methods[0])
        return self.module("process_executor").ProcessPoolExecutor(
            workers, context=context, initializer=initializer, initargs=initargs, **options
        )

    def terminate(self, pool: Any) -> None:
        pool.shutdown(kill_workers=True)


class BindElsewhere(BindLoky):
    """The start methods of `multiprocessing` that loky takes and does not warn of."""

    start_methods = ("spawn", "forkserver")


class BindReusable(BindLoky):
    """``loky.get_reusable_executor``, whose workers wait for tasks with a timeout."""

    def make_bare(
        self,
        workers: int = 2,
        start_method: str | None = None,
        *,
        nesting: bool = False,
        **options: Any,
    ) -> Any:
        """Return this thread's executor; never one that was used before, unless asked to `reuse`."""
        context = self.module("backend").get_context(start_method or self.start_methods[0])
        given = {"timeout": 60, "reuse": False, "kill_workers": True, **options}
        return self.module("reusable_executor").get_reusable_executor(workers, context=context, **given)


class BindJoblib(BindLoky):
    """The copy of loky in joblib, which is another module with classes of its own."""

    package = "joblib.externals.loky"


class BindLate(BindLoky):
    """An executor that was used before it is guarded: its workers are older than the guard."""

    def make_pool(self, workers: int = 2, start_method: str | None = None, **options: Any) -> Any:
        pool = self.make_bare(workers, start_method)
        for future in [pool.submit(square, n) for n in range(2 * workers)]:
            future.result()
        return guard(pool, **options)
