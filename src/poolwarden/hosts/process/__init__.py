"""A single multiprocessing.Process."""
