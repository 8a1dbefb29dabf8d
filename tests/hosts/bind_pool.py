"""How the contract uses `multiprocessing.Pool`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.pool import RUN, Pool
from typing import Any, ClassVar

from tests.contract.binding import Answers, PoolBinding, Way
from tests.contract.waiting import DEADLINE, eventually, within


class NoDaemon(multiprocessing.Process):
    """A worker that may have children of its own."""

    @property
    def daemon(self) -> bool:
        return False

    @daemon.setter
    def daemon(self, value: bool) -> None:
        pass


class NestingContext(type(multiprocessing.get_context())):  # type: ignore[misc]
    """The default start method with such workers, as people write it to nest pools."""

    Process = NoDaemon


def _one_by_one(submit: Callable[..., Callable[[], Any]]) -> Way:
    """Return a way that makes one call for each item."""

    def call(pool: Any, func: Callable[..., Any], items: list[Any]) -> Answers:
        submitted, answers = Answers(), Answers()
        for item in items:
            submitted.collect(lambda item=item: submit(pool, func, item))
        for get in submitted.values:
            answers.collect(get)
        answers.errors += submitted.errors
        return answers

    return Way(call, separate=True, indexed=False)


def _all_at_once(get: Callable[[Any, Callable[..., Any], list[Any], int], list[Any]], chunk: int) -> Way:
    """Return a way that answers with all results or one error."""

    def call(pool: Any, func: Callable[..., Any], items: list[Any]) -> Answers:
        answers = Answers()
        answers.collect(lambda: get(pool, func, items, chunk))
        if answers.values:
            answers.values = answers.values[0]
        return answers

    return Way(call, separate=False, indexed=True, chunk=chunk)


def _one_after_another(iterate: Callable[[Any, Callable[..., Any], list[Any], int], Any], chunk: int) -> Way:
    """Return a way that yields results; with chunks it is a generator, which an error ends."""

    def call(pool: Any, func: Callable[..., Any], items: list[Any]) -> Answers:
        started, answers = Answers(), Answers()
        started.collect(lambda: iterate(pool, func, items, chunk))
        answers.errors += started.errors
        for iterator in started.values:
            while _END not in answers.values[-1:]:
                assert len(answers.errors) <= len(items), answers.errors
                answers.collect(lambda: within(DEADLINE, next, iterator, _END))  # noqa: B023 - called at once
            answers.values.pop()
        if answers.errors:  # the error of one chunk ends the generator; the other chunks go on
            eventually(lambda: not pool._cache or pool._state != RUN, "every chunk done")
        return answers

    return Way(call, separate=chunk == 1, indexed=True, chunk=chunk)


_END = object()


def _map(pool: Any, func: Callable[..., Any], items: list[Any], chunk: int) -> list[Any]:
    results: list[Any] = within(DEADLINE, pool.map, func, items, chunk)
    return results


def _pairs(items: list[Any]) -> list[tuple[Any]]:
    return [(item,) for item in items]


class BindPool(PoolBinding):
    """`multiprocessing.Pool`, all eight submission methods, chunked and not."""

    host_error = BrokenProcessPool

    ways: ClassVar = {
        "apply": _one_by_one(lambda pool, f, x: partial(within, DEADLINE, pool.apply, f, (x,))),
        "apply_async": _one_by_one(lambda pool, f, x: partial(pool.apply_async(f, (x,)).get, DEADLINE)),
        "map": _all_at_once(_map, 1),
        "map-chunks": _all_at_once(_map, 3),
        "map_async": _all_at_once(lambda pool, f, xs, n: pool.map_async(f, xs, n).get(DEADLINE), 2),
        "starmap": _all_at_once(lambda pool, f, xs, n: within(DEADLINE, pool.starmap, f, _pairs(xs), n), 3),
        "starmap_async": _all_at_once(
            lambda pool, f, xs, n: pool.starmap_async(f, _pairs(xs), n).get(DEADLINE), 1
        ),
        "imap": _one_after_another(lambda pool, f, xs, n: pool.imap(f, xs, n), 1),
        "imap-chunks": _one_after_another(lambda pool, f, xs, n: pool.imap(f, xs, n), 3),
        "imap_unordered": _one_after_another(lambda pool, f, xs, n: pool.imap_unordered(f, xs, n), 1),
        "imap_unordered-chunks": _one_after_another(lambda pool, f, xs, n: pool.imap_unordered(f, xs, n), 3),
    }

    blocking: ClassVar = {
        "map": lambda pool, f, xs: pool.map(f, xs, 1),
        "get": lambda pool, f, xs: [handle.get() for handle in [pool.apply_async(f, (x,)) for x in xs]],
        "imap": lambda pool, f, xs: list(pool.imap(f, xs)),
    }

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
        context = multiprocessing.get_context(start_method or self.start_methods[0])
        if nesting:
            context = NestingContext()
        return Pool(workers, initializer, initargs, maxtasksperchild, context=context)

    def submit(self, pool: Any, func: Callable[..., Any], *args: Any) -> Any:
        return pool.apply_async(func, args)

    def result(self, handle: Any, timeout: float = DEADLINE) -> Any:
        return handle.get(timeout)

    def iterate(self, pool: Any, func: Callable[..., Any], items: Iterable[Any]) -> Any:
        return pool.imap(func, items)

    def worker_pids(self, pool: Any) -> list[int]:
        return [process.pid for process in list(pool._pool)]

    def close(self, pool: Any) -> None:
        pool.close()
        pool.join()

    def terminate(self, pool: Any) -> None:
        pool.terminate()
        pool.join()
