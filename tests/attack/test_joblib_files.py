"""joblib's mapped arrays: what a call that fails leaves behind, and what it must leave alone.

Siblings of one kind: a task raises; it raises and its worker has kept the
array, in a cycle or for good; its worker is killed; it is timed out; tasks of
the call have not begun; the folder of the executor that is no call's. The same
array is used again afterwards, in the same ``with`` block; another thread's
call goes on beside; the program ends with everything still kept. Neither a
file nor a word of joblib's resource tracker is left.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("joblib")
pytest.importorskip("numpy")

PROGRAM = """
import builtins, os, signal, sys, threading, time
from pathlib import Path
import numpy as np
import poolwarden
from joblib import Parallel, delayed

FOLDER = Path(sys.argv[1])

def fails(array, n):
    if n == 3:
        raise ValueError(n)
    return float(array[0])

def in_a_cycle(array, n):
    cycle = [array]
    cycle.append(cycle)
    raise ValueError(n)

def kept(array, n):
    builtins.kept = [*getattr(builtins, "kept", ()), array]
    raise ValueError(n)

def killed(array, n):
    builtins.kept = [*getattr(builtins, "kept", ()), array]
    if n == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return float(array[0])

def late(array, n):
    if n == 3:
        time.sleep(60)
    return float(array[0])

def kind(array, n):
    time.sleep(0.002)
    return type(array).__name__, float(array[0])

def call(func, array=np.arange(1000.0), count=8, **options):
    try:
        return Parallel(2, max_nbytes=100, **options)(delayed(func)(array, n) for n in range(count))
    except (ValueError, poolwarden.PoolWardenError) as error:
        return type(error).__name__

def files():
    return [path.name for path in FOLDER.rglob("*") if path.is_file()]

def each():
    for func in (fails, in_a_cycle, kept, killed, late):
        print(func.__name__, call(func), files(), flush=True)

def again():
    array = np.arange(1000.0)
    with Parallel(2, max_nbytes=100) as parallel:
        first = Path(parallel._backend._workers._temp_folder)
        for _ in range(5):
            try:
                parallel(delayed(fails)(array, n) for n in range(8))
            except ValueError:
                print(first.exists(), end=" ")
            found = parallel(delayed(kind)(array, n) for n in range(20))
            print(found == [("memmap", 0.0)] * 20)
    print("again", files(), flush=True)

def beside():
    found = []
    def others():
        for n in range(3):
            found.append(call(kind, np.arange(1000.0) + n, 40) == [("memmap", n)] * 40)
    thread = threading.Thread(target=others)
    thread.start()
    while thread.is_alive():
        call(fails)
    thread.join()
    print("beside", found, flush=True)

if __name__ == "__main__":
    poolwarden.install(timeout=1)
    if sys.argv[2] != "again":
        # Without it, the folder that is no call's is made at once where there is shared memory.
        os.environ["JOBLIB_TEMP_FOLDER"] = str(FOLDER)
    {"each": each, "again": again, "beside": beside}[sys.argv[2]]()
"""

PRINTED = {
    "each": [
        "fails ValueError []",
        "in_a_cycle ValueError []",
        "kept ValueError []",
        "killed WorkerLostError []",
        "late TaskTimeoutError []",
    ],
    "again": ["False True"] * 5 + ["again []"],
    "beside": ["beside [True, True, True]"],
}


@pytest.mark.parametrize("part", PRINTED)
def test_nothing_is_left_and_nothing_is_missing(part: str, tmp_path: Path) -> None:
    program, folder = tmp_path / "program.py", tmp_path / "arrays"
    program.write_text(PROGRAM)
    folder.mkdir()

    ran = subprocess.run(
        [sys.executable, str(program), str(folder), part], capture_output=True, text=True, timeout=60
    )

    assert ran.stdout.splitlines() == PRINTED[part], ran.stderr
    assert "resource_tracker" not in ran.stderr
    assert "Traceback" not in ran.stderr
    assert list(folder.iterdir()) == []
