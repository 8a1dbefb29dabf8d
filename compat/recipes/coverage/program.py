"""Pools whose workers run lines that the parent does not."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def sign(n):
    """Return -1, 0 or 1."""
    if n < 0:
        return -1
    if n == 0:
        return 0
    return 1


if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        pool = context.Pool(2)
        print(pool.map(sign, [-3, 0, 3]))
        pool.close()
        pool.join()
        with ProcessPoolExecutor(2, context) as executor:
            print(list(executor.map(sign, [-3, 0, 3])))
