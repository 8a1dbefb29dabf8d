"""What errors say of real losses: each statement true, none empty, none about somebody else.

Siblings: a chunk of `map`, of an executor and a batch of joblib that lose an item at the beginning, in the
middle, at the end; submissions through a library in site-packages; workers that cannot import the main module
(no condition, an error of its own, an initializer that is not there); initializers that raise types of their
own, of several lines, chained; names with control characters; KeyboardInterrupt, SystemExit and others.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import poolwarden
from poolwarden import PayloadError, PoolBrokenError, TaskExitError, TaskTimeoutError, WorkerLostError, guard
from poolwarden.testing import die, fail, hang, kill_self, only_for
from tests.contract.waiting import DEADLINE, within

SOURCE = str(Path(poolwarden.__file__).parents[1])

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fork and SIGKILL")


def context(method="fork"):
    return multiprocessing.get_context(method)


def in_pool(function, items, chunk, **options):
    with guard(context().Pool(1), **options) as pool:
        within(DEADLINE, pool.map, function, items, chunk)


def in_executor(function, items, chunk, **options):
    with guard(ProcessPoolExecutor(1, mp_context=context()), **options) as pool:
        within(DEADLINE, lambda: list(pool.map(function, items, chunksize=chunk)))


@pytest.fixture(scope="module", autouse=True)
def warm_joblib(warm):
    """Start what stays for the whole process with loky's first executor."""
    with contextlib.suppress(pytest.skip.Exception):
        in_joblib(abs, range(8), 4)


def in_joblib(function, items, chunk, **options):
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config("poolwarden", n_jobs=2, **options):
        calls = [joblib.delayed(function)(item) for item in items]
        try:
            joblib.Parallel(batch_size=chunk, pre_dispatch="all")(calls)
        finally:
            joblib.externals.loky.get_reusable_executor().shutdown(kill_workers=True)


MAPS = {"Pool": in_pool, "executor": in_executor, "joblib": in_joblib}


def map_in(kind, *arguments, **options):
    """Return what `map` in a guarded pool of this kind raises."""
    with pytest.raises((WorkerLostError, TaskTimeoutError)) as caught:
        MAPS[kind](*arguments, **options)
    return caught.value


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize(
    ("item", "said"),
    [
        (4, "Its chunk, items 4 to 7, has no results; none of the others had been run."),
        (5, "Its chunk, items 4 to 7, has no results; item 4 had been run."),
        (7, "Its chunk, items 4 to 7, has no results; items 4 to 6 had been run."),
    ],
)
def test_the_other_items_of_a_lost_chunk(kind, item, said):
    error = map_in(kind, only_for(item, kill_self(), abs), range(8), 4)
    assert said in str(error).splitlines()
    assert error.task.index == item


@pytest.mark.parametrize("kind", ["Pool", "executor"])
def test_the_other_items_of_a_chunk_that_was_timed_out(kind):
    error = map_in(kind, only_for(6, hang(), abs), range(8), 4, timeout=0.3)
    assert "Its chunk, items 4 to 7, has no results; items 4 to 5 had been run." in str(error).splitlines()


@pytest.mark.parametrize("kind", ["Pool", "executor"])
def test_nothing_is_said_of_others_where_there_are_none(kind):
    assert "chunk" not in str(map_in(kind, only_for(6, kill_self(), abs), range(8), 1))


def test_a_plain_kill_has_no_empty_line():
    with guard(context().Pool(1)) as pool, pytest.raises(WorkerLostError) as caught:
        pool.apply(kill_self())
    assert "nothing beyond" not in str(caught.value)
    assert all(line.strip() for line in str(caught.value).splitlines())
    assert "had been running for" in str(caught.value)
    assert "\n" not in repr(caught.value)


LIBRARY = """
def search(submit, function):
    return _deeper(submit, function)
def _deeper(submit, function):
    return submit(function)
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    folder = tmp_path / "lib" / "python3" / "site-packages"
    (folder / "findit").mkdir(parents=True)
    (folder / "findit" / "core.py").write_text(LIBRARY)
    (folder / "findit" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(folder))
    import findit.core

    yield findit.core
    for name in ("findit", "findit.core"):
        del sys.modules[name]


@pytest.mark.parametrize("kind", ["Pool", "executor"])
def test_the_site_is_the_users_line(kind, library):
    with (
        context().Pool(1) if kind == "Pool" else ProcessPoolExecutor(1, mp_context=context()) as pool,
    ):
        guard(pool)
        submit = pool.apply if kind == "Pool" else lambda f: pool.submit(f).result()
        line = sys._getframe().f_lineno + 2
        with pytest.raises(WorkerLostError) as caught:
            library.search(submit, kill_self())
    task = caught.value.task
    # The executor's own lambda above is the innermost line of this file.
    assert task.site == f"{__file__}:{line if kind == 'Pool' else line - 3}"
    if kind == "Pool":
        assert task.through == "findit/core.py:5"
        assert f"submitted at {__file__}:{line}, through findit/core.py:5" in str(caught.value)
    else:
        assert task.through is None


def program(tmp_path, text, *arguments):
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(text))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POOLWARDEN")}
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**clean, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )


MAKE = {
    "Pool": "pool = guard(multiprocessing.get_context(method).Pool(1));"
    " get = pool.apply_async(abs, (-1,)).get",
    "executor": "pool = guard(ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)));"
    " get = pool.submit(abs, -1).result",
}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_would_start_the_program_again(tmp_path, kind, method):
    ran = program(
        tmp_path,
        f"""
        import multiprocessing, sys
        from concurrent.futures import ProcessPoolExecutor
        from poolwarden import guard
        method = {method!r}
        {MAKE[kind]}
        try:
            get(20)
        except Exception as error:
            print(error)
        else:
            print("a result")
        if multiprocessing.parent_process() is None:
            getattr(pool, "terminate", pool.shutdown)()
        """,
    )
    told = ran.stdout.splitlines()
    assert told[0].startswith("The pool cannot go on: its workers cannot import the main module: "), ran
    assert 'job.py has no if __name__ == "__main__"' in told[0]
    assert told[-1].startswith('Try: put what starts the program below if __name__ == "__main__":')


@pytest.mark.parametrize("kind", MAKE)
def test_workers_whose_main_module_raises(tmp_path, kind):
    ran = program(
        tmp_path,
        f"""
        import multiprocessing, sys
        from concurrent.futures import ProcessPoolExecutor
        from poolwarden import guard
        if __name__ == "__mp_main__":
            raise ImportError("not here")
        if __name__ == "__main__":
            method = "spawn"
            {MAKE[kind]}
            try:
                get(20)
            except Exception as error:
                print(error)
        """,
    )
    assert "likely they cannot import the main module, job.py" in ran.stdout.splitlines()[0], ran
    assert "stderr" in ran.stdout.splitlines()[-1]


class LicenceError(Exception):
    pass


def chained():
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise LicenceError("none left\n  of two lines") from error


@pytest.mark.parametrize(
    ("initializer", "said", "line"),
    [
        (fail(ValueError("no licence")), "its initializer raised ValueError, ", "ValueError: no licence"),
        (fail(SystemExit(3)), "its initializer raised SystemExit, ", "SystemExit: 3"),
        (chained, "its initializer raised tests.attack.test_true_words.LicenceError, ", "none left"),
        (die(7), "its workers end in their initializer, ", "exited with status 7"),
    ],
    ids=["ValueError", "SystemExit", "chained", "exits"],
)
@pytest.mark.parametrize("kind", ["Pool", "executor"])
def test_a_broken_pool_names_what_its_initializer_raised(kind, initializer, said, line):
    if kind == "Pool":
        pool = guard(context().Pool(1, initializer))
        get = pool.apply_async(abs, (-1,)).get
    else:
        pool = guard(ProcessPoolExecutor(1, mp_context=context(), initializer=initializer))
        get = pool.submit(abs, -1).result
    try:
        with pytest.raises(PoolBrokenError) as caught:
            get(DEADLINE)
    finally:
        within(DEADLINE, pool.terminate if kind == "Pool" else pool.shutdown)
    told = str(caught.value)
    assert said in told
    assert line in told
    assert "status 1" not in told
    assert "nothing beyond" not in told
    assert told.splitlines()[-1].startswith("Try: mend the initializer")


@pytest.mark.parametrize(
    ("raised", "advice", "never"),
    [
        (KeyboardInterrupt(), "Ctrl-C", "sys.exit()"),
        (SystemExit("\x1b[2J gone"), "sys.exit()", "Ctrl-C"),
        (GeneratorExit(), "a subclass of Exception", "sys.exit()"),
    ],
    ids=["KeyboardInterrupt", "SystemExit", "GeneratorExit"],
)
def test_each_exit_has_its_own_advice(raised, advice, never):
    with guard(context().Pool(1)) as pool, pytest.raises(TaskExitError) as caught:
        pool.apply(fail(raised))
    assert advice in str(caught.value).splitlines()[-1]
    assert never not in str(caught.value).replace(repr(raised), "")
    assert all(line.isprintable() for line in str(caught.value).splitlines())


class TwoArgumentsError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} of {two}")


class OneWay:
    def __reduce__(self):
        return int, ("no number",)


def raise_two():
    raise TwoArgumentsError("first", "second")


@pytest.mark.parametrize("kind", ["Pool", "executor"])
def test_a_payload_error_says_what_could_not_be_unpickled(kind):
    with context().Pool(1) if kind == "Pool" else ProcessPoolExecutor(1, mp_context=context()) as pool:
        guard(pool)
        run = pool.apply if kind == "Pool" else lambda f: pool.submit(f).result(DEADLINE)
        with pytest.raises(PayloadError) as caught:
            run(raise_two)
        assert "The exception that tests.attack.test_true_words.raise_two" in str(caught.value)
        assert "TwoArgumentsError: first of second" in str(caught.value)
        assert "super().__init__()" in str(caught.value)
        with pytest.raises(PayloadError) as caught:
            run(OneWay)
        assert str(caught.value).startswith("The result of tests.attack.test_true_words.OneWay")
        assert "Unpickling raised an exception of type ValueError: invalid literal" in str(caught.value)
        assert "__init__" not in str(caught.value)


@pytest.mark.parametrize("kind", ["Pool", "executor"])
def test_names_with_control_characters_never_reach_a_terminal(kind, capfd, caplog):
    name = "evil\x1b[2J\r\x9b1m\u202e\ud800\n"

    def task():
        os.kill(os.getpid(), 9)

    task.__qualname__ = task.__name__ = name
    task.__module__ = __name__
    globals()[name] = task
    told = []
    try:
        code = compile("def go(submit, task): return submit(task)", f"/tmp/{name}.py", "exec")
        namespace = {}
        exec(code, namespace)
        with context().Pool(1) if kind == "Pool" else ProcessPoolExecutor(1, mp_context=context()) as pool:
            guard(pool, on_event=told.append)
            submit = pool.apply if kind == "Pool" else lambda f: pool.submit(f).result(DEADLINE)
            with pytest.raises(WorkerLostError) as caught:
                namespace["go"](submit, task)
    finally:
        del globals()[name]
    texts = [*str(caught.value).splitlines(), repr(caught.value), caught.value.task.function]
    texts += [caught.value.task.site, *(event.detail for event in told)]
    texts += [record.getMessage() for record in caplog.records]
    assert r"evil\x1b[2J\r\x9b1m\u202e\ud800\n" in texts[0]
    assert len(told) > 0
    assert all(text.isprintable() for text in texts), [text for text in texts if not text.isprintable()]
