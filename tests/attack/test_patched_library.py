"""Programs that replace parts of the standard library: threads that are greenlets, calls that switch.

Siblings: gevent and eventlet in full, and gevent without threads; before poolwarden is
imported, and between that and the first pool; guarded by `guard`, by `install`, by
POOLWARDEN, by joblib's backend; a Pool, an executor, a process; ``select.poll`` alone
taken away, which older tools do; a pool that was guarded before ``select.poll`` goes.
There is no guard under them: our thread, in its wait, would hold up all others. The
pool is left as bare as it was, and one line says why. (A bare ``Pool`` hangs under
either of them by itself; only executors can be used.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from typing import Final

import pytest

from tests.attack.conftest import skip_without
from tests.contract.waiting import DEADLINE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="has no poll anyway")

PATCHES: Final = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "gevent-without-threads": "import gevent.monkey; gevent.monkey.patch_all(thread=False)",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "poll-deleted": "import select; del select.poll",
}

GUARD: Final = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from poolwarden import ConfigurationError, guard
context = multiprocessing.get_context("fork")
made = [ProcessPoolExecutor(2, context), context.Process(target=int)]
if "gevent.monkey" in sys.modules and not gevent.monkey.is_module_patched("threading"):
    made.append(context.Pool(1))  # else not even that can be made
for each in made:
    before = type(each), dict(vars(each))
    try:
        guard(each, timeout=5) if each is not made[1] else guard(each)
    except ConfigurationError as error:
        assert "patched the standard library" in str(error) or "select.poll" in str(error), error
    else:
        raise AssertionError("guarded")
    assert (type(each), dict(vars(each))) == before
"""

#: What a program does that knows nothing of us.
USE: Final = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
executors = [ProcessPoolExecutor(2, multiprocessing.get_context("fork")) for _ in range(3)]
for executor in executors:
    assert list(executor.map(abs, [-1, -2, -3])) == [1, 2, 3]
    assert not hasattr(executor, "_poolwarden")
    executor.shutdown()
print("done", flush=True)
os._exit(0)  # a bare Pool does not even end here
"""

#: Only makes executors: a bare one hangs under eventlet if its module was imported before the patch.
MAKE: Final = USE.replace("    assert list", "    # assert list").replace("    executor.shutdown()\n", "")

INSTALL: Final = "import poolwarden; poolwarden.install(timeout=5)\n"


def run(program: str, **environment: str) -> list[str]:
    """Return the lines that we write to stderr in a program that ends well; others write there as well."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program],
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            code = process.wait(DEADLINE)
        finally:
            # Bare workers outlive such a program.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        stdout.seek(0)
        stderr.seek(0)
        said = stderr.read()
        assert (code, stdout.read()) == (0, "done\n"), said
    return [line for line in said.splitlines() if line.startswith("poolwarden")]


@pytest.fixture(params=PATCHES)
def patch(request: pytest.FixtureRequest) -> str:
    if request.param != "poll-deleted":
        skip_without(request.param.partition("-")[0])
    return PATCHES[request.param] + "\n"


@pytest.mark.parametrize("early", ["", "import poolwarden.activation.api, poolwarden.core.guard\n"])
def test_guard_refuses_and_says_who(patch: str, early: str) -> None:
    if early and "del select.poll" in patch:
        pytest.skip("it was taken before that")
    use = MAKE if early and "eventlet" in patch else USE
    assert run(early + patch + GUARD + use) == []


def test_install_says_one_line(patch: str) -> None:
    if "del select.poll" in patch:
        pytest.skip("that is a ConfigurationError, as where a system lacks something else")
    (said,) = run(patch + INSTALL + INSTALL + USE)
    assert said.startswith("poolwarden: the pools of this process are not guarded: "), said


def test_install_before_the_patch_says_one_line(patch: str) -> None:
    if "del select.poll" in patch:
        pytest.skip("it was taken before that")
    (said,) = run(INSTALL + patch + (MAKE if "eventlet" in patch else USE))
    assert "is not guarded" in said


def test_the_variable_says_one_line(patch: str) -> None:
    # What the start-up file does, which is there only where poolwarden is installed; twice does no harm.
    start = "from poolwarden.activation.startup import start; start()\n"
    (said,) = run(start + patch + USE, POOLWARDEN="timeout=5")
    assert "patched the standard library" in said or "select.poll" in said


@pytest.mark.parametrize("kind", ["Pool", "executor"])
def test_a_pool_that_was_guarded_before_poll_was_deleted_stays_so(kind: str) -> None:
    make = "context.Pool(2)" if kind == "Pool" else "ProcessPoolExecutor(2, context)"
    submit = "pool.apply_async(f, a).get" if kind == "Pool" else "pool.submit(f, *a).result"
    end = "pool.close(); pool.join()" if kind == "Pool" else "pool.shutdown()"
    run(
        f"""
import multiprocessing, select
from concurrent.futures import ProcessPoolExecutor
from poolwarden import TaskTimeoutError, WorkerLostError, guard
from poolwarden.testing import hang, kill_self
context = multiprocessing.get_context("fork")
pool = guard({make}, timeout=0.5)
del select.poll
for fault, expected in ((kill_self(), WorkerLostError), (hang(), TaskTimeoutError)):
    try:
        (lambda f, *a: {submit}(10))(fault)
    except expected:
        pass
    assert (lambda f, *a: {submit}(10))(abs, -1) == 1
{end}
print("done")
"""
    )
