"""A program that `frozen` freezes: each host of the standard library, guarded, loses one task.

With the argument ``variable`` it guards nothing by itself; ``POOLWARDEN`` does,
since the program imports poolwarden. Prints one line for each pool.
"""

import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor


def square(n):
    if n == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return n * n


def forever(n):
    while n:
        pass


def show(name, values):
    print(name, *(value if isinstance(value, int) else type(value).__name__ for value in values), flush=True)


def guarded():
    from poolwarden import guard, limits

    for method in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        with guard(context.Pool(2), losses="return", timeout=60) as pool:
            show(f"{method} Pool", pool.map(square, range(6), 1))
            show(f"{method} timeout", pool.map(limits(forever, timeout=0.5), [0, 1], 1)[1:])
        with guard(ProcessPoolExecutor(2, mp_context=context)) as executor:
            futures = [executor.submit(square, n) for n in range(6)]
            show(f"{method} executor", [future.exception(60) or future.result() for future in futures])


def by_variable():
    import poolwarden  # noqa: F401 - where nothing runs at start-up, this does what POOLWARDEN asks for

    for method in multiprocessing.get_all_start_methods():
        with multiprocessing.get_context(method).Pool(2) as pool:
            try:
                pool.map_async(square, range(6), 1).get(60)
            except Exception as error:
                show(f"{method} variable", [error])


if __name__ == "__main__":
    multiprocessing.freeze_support()
    by_variable() if sys.argv[1:] == ["variable"] else guarded()
