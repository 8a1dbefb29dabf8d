"""`install` and `uninstall`: every pool made from now on in this process.

A host that is not imported yet is met when it is: importing loky or joblib
here would cost more than most programs, and they may not be installed.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
from typing import Any

from ..policy import Policy
from .hosts import HOSTS, Host

log = logging.getLogger("poolwarden")

_lock = threading.RLock()
_policy: Policy | None = None
_installed: list[Any] = []
_awaited: set[str] = set()


def install(**policy: Any) -> None:
    """Guard every pool that is made from now on in this process.

    Parameters
    ----------
    **policy
        The options of `poolwarden.guard`. A second call changes them for pools
        made later.

    Raises
    ------
    ConfigurationError
        An option has an invalid value, or the version of a host is not known.
    """
    global _policy
    checked = Policy(**policy)
    with _lock:
        for host in HOSTS:
            if host.imported in sys.modules:
                _install(host, checked)
            elif host.imported not in _awaited:
                import wrapt

                _awaited.add(host.imported)
                wrapt.register_post_import_hook(functools.partial(_on_import, host), host.imported)
        _policy = checked


def uninstall() -> None:
    """Take `install` back: the hosts are as they were. Pools that are guarded stay so."""
    global _policy
    with _lock:
        _policy = None
        while _installed:
            _installed.pop().uninstall()


def _install(host: Host, policy: Policy) -> None:
    adapter = host.load()
    if hasattr(adapter, "install"):
        adapter.install(policy)
        if adapter not in _installed:
            _installed.append(adapter)


def _on_import(host: Host, module: Any) -> None:
    """Install a host that has just been imported; its import must not fail because of us."""
    with _lock:
        if _policy is None:
            return
        try:
            _install(host, _policy)
        except Exception as error:
            log.warning("poolwarden: %s is not guarded: %s", host.kind, error)
