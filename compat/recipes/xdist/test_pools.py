"""Tests that make pools."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

METHODS = multiprocessing.get_all_start_methods()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", range(4))
def test_pool(method, size):
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(abs, range(-size, 0)) == list(range(size, 0, -1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", range(4))
def test_executor(method, size):
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as executor:
        assert list(executor.map(abs, range(-size, 0))) == list(range(size, 0, -1))
