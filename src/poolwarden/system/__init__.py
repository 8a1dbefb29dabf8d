"""This machine: processes, pipes, locks, threads and memory. Knows neither task nor pool."""
