"""multiprocessing.Pool and its copies."""
