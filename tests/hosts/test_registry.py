"""The table of hosts agrees with the hosts, and with the few constants that workers keep of them."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import pytest

from poolwarden.activation import constructors
from poolwarden.cli import demo_case
from poolwarden.hosts import registry
from poolwarden.hosts.executor import submissions as executor_submissions
from poolwarden.hosts.joblib import backend as joblib_backend
from poolwarden.hosts.loading import LOADERS, load
from poolwarden.hosts.pool import submission as pool_submission
from poolwarden.hosts.registry import CONSTRUCTORS, HOSTS, Host, own_files
from poolwarden.worker import member, orphan
from tests.test_layers import COSTLY, imported_by


def imported(host: Host) -> Any:
    if host.distribution:
        pytest.importorskip(host.distribution)
    return importlib.import_module(host.module)


each_host = pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.module)


@each_host
def test_what_the_table_names_is_there(host: Host) -> None:
    module = imported(host)
    for name in host.constructors:
        assert callable(getattr(module, name).__init__)
    adapter = load(host)
    assert adapter.__module__.startswith("poolwarden.hosts.")


@each_host
def test_the_files_of_a_host_are_files_of_it(host: Host) -> None:
    imported(host)
    if host.module == "concurrent.futures.process":
        importlib.import_module("asyncio.base_events")
    loaded = [
        os.path.abspath(file) for m in list(sys.modules.values()) if (file := getattr(m, "__file__", None))
    ]
    for ending in host.own_files:
        if not ending.startswith("sklearn/"):
            assert any(file.endswith(ending) for file in loaded), ending


def test_each_module_and_each_kind_stands_once() -> None:
    assert len({host.module for host in HOSTS}) == len({host.kind for host in HOSTS}) == len(HOSTS)
    assert list(LOADERS) == [host.module for host in HOSTS]


def test_where_a_task_was_submitted_is_looked_for_outside_of_every_host() -> None:
    skipped = {*pool_submission._OWN_FILES, *executor_submissions._OWN_FILES, *joblib_backend._OWN_FILES}
    assert skipped >= set(own_files(*(host.module for host in HOSTS)))
    for ending in skipped:
        if ending.startswith("poolwarden/"):
            assert os.path.exists(os.path.join(os.path.dirname(registry.__file__), "../..", ending)), ending


def test_workers_know_the_modules_of_all_hosts_whose_processes_they_are() -> None:
    """These constants stay in the worker's modules: it would pay for one more import."""
    for module in CONSTRUCTORS:
        if module != "joblib.parallel":
            assert module in orphan._POOL_MODULES or module.endswith(orphan._POOL_SUFFIX), module
    assert set(orphan._POOL_MODULES) <= set(CONSTRUCTORS)
    packages = {host.module.partition(".")[0] for host in HOSTS if not host.constructors}
    assert packages == set(orphan.PACKAGES)


@each_host
def test_workers_know_the_main_functions_of_hosts(host: Host) -> None:
    if host.has_pools and host.constructors:
        assert any(hasattr(imported(host), name) for name in member._LOOPS)


def test_the_demo_shows_hosts_of_the_table() -> None:
    assert set(demo_case.HOSTS) <= {host.kind for host in HOSTS}
    assert len(demo_case.HOSTS) == len(demo_case._SHOWN)


def test_what_the_start_of_an_interpreter_reads_is_cheap() -> None:
    found = imported_by("import poolwarden.activation.startup")
    assert constructors.__name__ in found
    assert registry.__name__ in found
    assert not found & (COSTLY | {"contextlib", "functools", "threading"})
    assert len([name for name in found if name.startswith("poolwarden")]) <= 9
