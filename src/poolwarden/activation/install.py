"""`install` and `uninstall`: every pool made from now on in this process."""

from __future__ import annotations

import threading
from typing import Any

from ..policy import Policy
from .hosts import HOSTS

_lock = threading.Lock()
_installed: list[Any] = []


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
        An option has an invalid value.
    """
    checked = Policy(**policy)
    with _lock:
        for host in HOSTS:
            adapter = host.load()
            if hasattr(adapter, "install"):
                adapter.install(checked)
                if adapter not in _installed:
                    _installed.append(adapter)


def uninstall() -> None:
    """Take `install` back: the hosts are as they were. Pools that are guarded stay so."""
    with _lock:
        while _installed:
            _installed.pop().uninstall()
