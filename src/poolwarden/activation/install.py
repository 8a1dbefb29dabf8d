"""`install` and `uninstall`: every pool made from now on in this process.

A host that is not imported yet is met when it is: importing loky or joblib
here would cost more than most programs, and they may not be installed.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading
from typing import Any

from ..on_import import when_imported
from ..policy import Policy
from . import startup
from .hosts import HOSTS, Host

log = logging.getLogger("poolwarden")

_lock = threading.RLock()
_policy: Policy | None = None
_installed: list[Any] = []
_awaited: set[str] = set()


def install(**policy: Any) -> None:
    """Guard every pool that is made from now on in this process.

    A host of a version that is not known stays as it is, with one warning.

    Parameters
    ----------
    **policy
        The options of `poolwarden.guard`. A second call changes them for pools
        made later.

    Raises
    ------
    ConfigurationError
        An option has an invalid value.
    """
    follow(Policy(**policy))


def uninstall() -> None:
    """Take `install` back, and `POOLWARDEN`: the hosts are as they were. Pools that are guarded stay so."""
    follow(None)


def followed() -> Policy | None:
    """Return the policy of the pools that are made from now on, None if they are left alone."""
    with _lock:
        options = startup.waiting()
        return _policy if options is None else Policy(**options)


def follow(policy: Policy | None) -> None:
    """Do as `install` with a policy that is made already, and as `uninstall` with None."""
    global _policy
    with _lock:
        startup.stand_down()
        _policy = policy
        if policy is None:
            while _installed:
                _installed.pop().uninstall()
            return
        awaited = [host for host in HOSTS if host.imported not in _awaited]
        _awaited.update(host.imported for host in awaited)
    for host in HOSTS:
        if host in awaited:
            when_imported(host.imported, functools.partial(_on_import, host))
        elif host.imported in sys.modules:
            _install(host)


def load() -> None:
    """Import what `install` needs for the hosts that are imported; it tells what fails."""
    import wrapt  # noqa: F401

    for host in HOSTS:
        if host.imported in sys.modules:
            with contextlib.suppress(Exception):
                host.load()


def _install(host: Host) -> None:
    """Install one host; the program must not fail because of us."""
    try:
        # Not under the lock: it imports, for which it may have to wait for a thread that is
        # importing the host; and that thread comes here when it has.
        adapter = host.load()
        with _lock:
            if _policy is not None and hasattr(adapter, "install"):
                adapter.install(_policy)
                if adapter not in _installed:
                    _installed.append(adapter)
    except Exception as error:
        log.warning("poolwarden: %s is not guarded: %s", host.kind, error)


def _on_import(host: Host, module: Any) -> None:
    """Install a host that has just been imported."""
    with _lock:
        _awaited.discard(host.imported)
    if _policy is not None:
        _install(host)


def _in_forked_process() -> None:
    global _lock
    # A thread that does not exist here may have held it.
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_process)
