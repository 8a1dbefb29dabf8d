"""Maps a dataset in two processes, one of which dies: of a crash, a kill, an exit; prints what is amiss.

Bare, datasets notices other pids and says that a process has died; guarded,
the caller gets the error of the task, with the line that crashed.
"""

import ctypes
import os
import signal

import datasets

ENDS = {
    "crash": lambda: ctypes.string_at(0),  # the line that crashed
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
}
GUARDED = os.environ.get("POOLWARDEN") == "1"


def mapped(how, at):
    numbers = datasets.Dataset.from_dict({"n": list(range(2000))})

    def square(row):
        if row["n"] == at:
            ENDS[how]()
        return {"square": row["n"] ** 2}

    try:
        return numbers.map(square, num_proc=2)
    except Exception as error:
        return error


def amiss(how, error):
    if not GUARDED:
        return None if isinstance(error, RuntimeError) and "abruptly died" in str(error) else error
    if type(error).__name__ != "WorkerLostError":
        return error
    return error.stack if how == "crash" and " in square" not in str(error.stack) else None


if __name__ == "__main__":
    # Bare, the interpreter tells of each crash there; guarded, poolwarden of each loss.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    datasets.disable_caching()
    for how in ENDS:
        for at in (3, 900, 1999):
            print(how, at, amiss(how, mapped(how, at)), flush=True)
