"""What the guard costs, and how fast it is: measured beside the bare pool.

``python -m tests.perf`` prints a table; no test asserts a time. Every
measurement runs in a process of its own, bare and guarded in turn, so that a
machine that grows slower or busier meanwhile slows down both.
"""
