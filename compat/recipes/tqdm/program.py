"""Maps over a process pool with a progress bar."""

from tqdm.contrib.concurrent import process_map


def digits(n: int) -> int:
    """Return how many digits 3 to the power of `n` has."""
    return len(str(3**n))


if __name__ == "__main__":
    print(sum(process_map(digits, range(2000), max_workers=2, chunksize=50)))
