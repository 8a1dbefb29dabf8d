"""`concurrent.futures.ProcessPoolExecutor`: the contract, and what only this host has."""

from __future__ import annotations

from tests.adapters.bind_executor import BindExecutor
from tests.contract.suite import PoolContract


class TestExecutor(PoolContract):
    """The fault table, see `tests.contract`."""

    binding = BindExecutor
