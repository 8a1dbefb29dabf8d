"""`install` before anything of a host is imported: the host is met in the middle of its import."""

from __future__ import annotations

import subprocess
import sys

import pytest

MAKE = {
    "Pool": "import multiprocessing; pool = multiprocessing.Pool(1); end = pool.terminate",
    "ProcessPoolExecutor": (
        "import concurrent.futures; pool = concurrent.futures.ProcessPoolExecutor(1); end = pool.shutdown"
    ),
    "multiprocess": "import multiprocess; pool = multiprocess.Pool(1); end = pool.terminate",
    # Of these a half is imported first, and the other by it or later.
    "multiprocess.process": (
        "import multiprocess.process, multiprocess; pool = multiprocess.Pool(1); end = pool.terminate"
    ),
    "loky": "import loky; pool = loky.ProcessPoolExecutor(1); end = pool.shutdown",
    "joblib": ("from joblib.externals import loky; pool = loky.ProcessPoolExecutor(1); end = pool.shutdown"),
}


@pytest.mark.parametrize("host", MAKE)
def test_a_host_that_is_imported_later_is_guarded(host: str) -> None:
    if host.partition(".")[0] in ("multiprocess", "loky", "joblib"):
        pytest.importorskip(host.partition(".")[0])
    program = (
        "import poolwarden\n"
        "if __name__ == '__main__':\n"
        "    poolwarden.install()\n"
        f"    {MAKE[host]}\n"
        "    print(hasattr(pool, '_poolwarden'))\n"
        "    end()\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("True\n", "")


def test_a_second_install_while_another_thread_imports_a_host() -> None:
    """Each waited for the other: one for the import, the other, in it, for the lock of `install`."""
    pytest.importorskip("loky")
    program = """
import sys, threading
import poolwarden

poolwarden.install()
begun, go_on = threading.Event(), threading.Event()

class Pause:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("loky.") and "loky.process_executor" in sys.modules and not begun.is_set():
            begun.set()
            go_on.wait(30)

def import_it():
    import loky

sys.meta_path.insert(0, Pause())
thread = threading.Thread(target=import_it)
thread.start()
assert begun.wait(30)
threading.Timer(0.5, go_on.set).start()  # by then this thread waits for the import
poolwarden.install(timeout=5)
thread.join()
import loky
pool = loky.ProcessPoolExecutor(1)
print(pool._poolwarden.guard.policy.timeout)
pool.shutdown()
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (ran.stdout, ran.stderr) == ("5\n", "")


def test_a_host_that_another_thread_is_importing_is_not_waited_for() -> None:
    """That thread tells us of the host with the locks of its import held."""
    program = (
        "import multiprocessing, sys, threading\n"
        "from importlib.machinery import PathFinder\n"
        "import poolwarden\n"
        "half, go = threading.Event(), threading.Event()\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('poolwarden.hosts.'):\n"
        "            go.set()\n"
        "        if name != 'queue' or threading.current_thread() is not importer:\n"
        "            return None\n"
        "        spec = PathFinder.find_spec(name)\n"
        "        load = spec.loader.exec_module\n"
        # Not in the finder itself: up to 3.11 that holds up all imports.
        "        spec.loader.exec_module = lambda module: (half.set(), go.wait(30), load(module))\n"
        "        return spec\n"
        "def install():\n"
        "    half.wait(30)\n"
        "    poolwarden.install(timeout=5)\n"
        "    go.set()\n"
        "if __name__ == '__main__':\n"
        "    poolwarden.install()\n"
        "    assert 'multiprocessing.pool' not in sys.modules\n"
        "    sys.modules.pop('queue', None)\n"
        "    sys.meta_path.insert(0, Watch())\n"
        "    importer = threading.Thread(target=__import__, args=('multiprocessing.pool',), daemon=True)\n"
        "    installer = threading.Thread(target=install, daemon=True)\n"
        "    threads = importer, installer\n"
        "    for thread in threads: thread.start()\n"
        "    for thread in threads: thread.join(20)\n"
        "    print(half.is_set(), *(thread.is_alive() for thread in threads), flush=True)\n"
        "    if not importer.is_alive():\n"
        "        pool = multiprocessing.Pool(1)\n"
        "        print(pool._poolwarden.guard.policy.timeout)\n"
        "        pool.terminate()\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("True False False\n5\n", "")
