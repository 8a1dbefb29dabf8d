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
    "joblib": (
        "from joblib.externals import loky; pool = loky.ProcessPoolExecutor(1); end = pool.shutdown"
    ),
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
