"""What a host's binding supplies, and the words the contract is written in.

A binding is a subclass of `PoolBinding` in ``tests/hosts/bind_<host>.py``:
how to make the host's pool, submit to it, and end it. Programs started by
tests import it too, so it must not import pytest.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from poolwarden import PoolWardenError, guard
from tests.contract.waiting import DEADLINE, all_asleep

#: What the hosts raise when a wait with a bound has no answer.
WAIT_ENDED = (multiprocessing.TimeoutError, concurrent.futures.TimeoutError)


@dataclass
class Answers:
    """What one call for several items gave: results in order, and errors.

    `values` holds what came as a result, which with ``losses="return"`` may be
    an error object; `errors` holds what was raised, in the order it was.
    """

    values: list[Any] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def collect(self, get: Callable[[], Any]) -> None:
        """Add what ``get()`` returns or raises; no answer within its bound is none, and a failure."""
        try:
            self.values.append(get())
        except Exception as error:
            ours = isinstance(error, PoolWardenError)
            if isinstance(error, AssertionError) or (isinstance(error, WAIT_ENDED) and not ours):
                raise AssertionError(f"no answer: {error!r}") from error
            self.errors.append(error)

    @property
    def error(self) -> BaseException:
        """The only error there is."""
        assert len(self.errors) == 1, f"expected one error, got {self.errors!r} beside {self.values!r}"
        return self.errors[0]


@dataclass(frozen=True)
class Way:
    """One way of submitting several items to a host, and how it reports.

    Attributes
    ----------
    call : callable
        ``call(pool, func, items) -> Answers``; every wait in it is bounded.
    separate : bool
        Whether each item has an answer of its own when another one fails;
        False when one error takes the place of more than its item.
    indexed : bool
        Whether the items are positions of one call (`map`), or calls of their own.
    chunk : int
        How many items travel, and fail, together: a host that meets an error
        in one does not run the rest of its chunk.
    cancels : bool
        Whether the host, at the first error, drops the items that have not begun.
    """

    call: Callable[[Any, Callable[..., Any], list[Any]], Answers]
    separate: bool
    indexed: bool
    chunk: int = 1
    cancels: bool = False

    def check_others(self, answers: Answers, ran: dict[str, int], count: int, failed: int) -> None:
        """Check every item but the failed one: as the host does it when an item raises.

        Each item ran once, but for those behind the failed one in its chunk,
        and for those that another worker had not begun in a call that is given
        up as a whole; and whoever can have a result has it.
        """
        for item in range(count):
            behind = item > failed and item // self.chunk == failed // self.chunk
            allowed = (0, 1) if self.cancels or behind else (1,)
            assert ran.get(str(item), 0) in allowed, f"item {item} ran {ran.get(str(item), 0)} times: {ran}"
        right = [n * n for n in range(count) if n != failed]
        assert set(answers.values) <= set(right)
        if self.separate:
            assert sorted(answers.values) == right


class PoolBinding:
    """How the contract uses one host. Subclass it and fill in what raises."""

    #: Start methods to test, the first one in every test.
    start_methods: ClassVar[tuple[str, ...]] = tuple(
        method
        for method in ("fork", "spawn", "forkserver")
        if method in multiprocessing.get_all_start_methods()
    )

    #: Where its processes come from.
    package: ClassVar[str] = "multiprocessing"

    #: What users of the host catch today when it breaks.
    host_error: ClassVar[type[BaseException]]

    #: What an interpreter that ends with a bare pool open may print, as a pattern.
    said_at_exit: ClassVar[str] = "(?!)"

    #: Every way of submitting, by name.
    ways: ClassVar[dict[str, Way]]

    #: Calls that keep the calling thread waiting without a bound, as users write them, by name.
    blocking: ClassVar[dict[str, Callable[[Any, Callable[..., Any], list[Any]], Any]]]

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
        """Return the host's pool as the host makes it; `nesting`: its workers may start processes."""
        raise NotImplementedError

    def make_pool(self, workers: int = 2, start_method: str | None = None, **options: Any) -> Any:
        """Return a guarded pool; options of `make_bare` are its own, all others are the policy's."""
        names = ("initializer", "initargs", "maxtasksperchild", "nesting")
        own = {name: options.pop(name) for name in names if name in options}
        return guard(self.make_bare(workers, start_method, **own), **options)

    def submit(self, pool: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Return a handle of one call."""
        raise NotImplementedError

    def result(self, handle: Any, timeout: float = DEADLINE) -> Any:
        """Return the result of a handle or raise its error."""
        raise NotImplementedError

    def iterate(self, pool: Any, func: Callable[..., Any], items: Iterable[Any]) -> Any:
        """Return an iterator of results in order."""
        raise NotImplementedError

    def worker_pids(self, pool: Any) -> list[int]:
        """Return the pids of the workers the pool has now."""
        raise NotImplementedError

    def idle_pids(self, pool: Any, count: int = 2) -> list[int]:
        """Return the pids of all `count` workers of a pool once all of them are there and idle."""
        return all_asleep(lambda: self.worker_pids(pool), count)

    def close(self, pool: Any) -> None:
        """End a pool the orderly way and wait: what was submitted is done first."""
        raise NotImplementedError

    def terminate(self, pool: Any) -> None:
        """End a pool at once and wait; what was submitted may be dropped."""
        raise NotImplementedError

    def leave(self, pool: Any) -> None:
        """End a pool by leaving its ``with`` block."""
        with pool:
            pass

    def endings(self) -> dict[str, Callable[[Any], None]]:
        """Return every way to end a pool, by name."""
        return {"close": self.close, "terminate": self.terminate, "with": self.leave}
