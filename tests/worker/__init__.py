"""Tests of what runs in a worker, in this process where that is the same, else in real ones."""
