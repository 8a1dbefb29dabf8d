"""`install` and `uninstall`: every pool made from now on in this process.

A host that is not imported yet is met when it is: importing loky or joblib
here would cost more than most programs, and they may not be installed.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..core.left_bare import warn_left_bare
from ..hosts.loading import adapter_for, load
from ..hosts.registry import HOSTS, Host
from ..on_import import when_imported
from ..policy import Policy
from ..system.monkeypatching import why_patched
from ..system.stepping import in_one_step
from . import constructors

if TYPE_CHECKING:
    from ..policy import Losses
    from ..records import Event

log = logging.getLogger("poolwarden")

#: Held for moments: nothing is imported under it. A thread in the middle of a host's import, which others may
#: wait for, takes it too.
_lock = threading.RLock()
_policy: Policy | None = None
_installed: list[Any] = []
_awaited: set[str] = set()


def install(
    *,
    timeout: float | None = None,
    grace: float = 0.0,
    retries: int = 0,
    losses: Losses = "raise",
    startup_timeout: float | None = None,
    cancel_running: bool = False,
    on_event: Callable[[Event], object] | None = None,
) -> None:
    """Guard every pool that is made from now on in this process.

    A host of a version that is not known stays as it is, with one warning; so
    do all where gevent or eventlet has patched the standard library.

    Parameters
    ----------
    timeout, grace, retries, losses, startup_timeout, cancel_running, on_event
        The options of `poolwarden.guard`. A second call changes them for pools
        made later.

    Raises
    ------
    ConfigurationError
        An option has an invalid value, or this system lacks what a guard needs.
    """
    from ..system.capabilities import require

    wanted = Policy(
        timeout=timeout,
        grace=grace,
        retries=retries,
        losses=losses,
        startup_timeout=startup_timeout,
        cancel_running=cancel_running,
        on_event=on_event,
    )
    # Where something has patched the standard library `follow` says so in one line.
    if why_patched() is None:
        require()
    follow(wanted)


def uninstall() -> None:
    """Take `install` back, and `POOLWARDEN`: the hosts are as they were. Pools that are guarded stay so."""
    follow(None)


def followed() -> Policy | None:
    """Return the policy of the pools that are made from now on, None if they are left alone."""
    with _lock:
        options = constructors.pending_options()
        return _policy if options is None else Policy(**options)


def follow(policy: Policy | None) -> None:
    """Do as `install` with a policy that is made already, and as `uninstall` with None."""
    if policy is None:
        in_one_step(_take_back)
        return
    why = why_patched()
    if why is not None:
        with _lock:
            constructors.stand_down()
        warn_left_bare("the pools of this process are", f"{why}.")
        return
    adapters = _load()
    _tell(in_one_step(lambda: _put_in_place(policy, adapters)))


def _take_back() -> None:
    global _policy
    with _lock:
        constructors.stand_down()
        _policy = None
        while _installed:
            _installed.pop().uninstall()


def _put_in_place(policy: Policy, adapters: dict[Host, Any]) -> dict[Host, Exception]:
    """Install adapters that are loaded, and return what failed: the program must not fail because of us."""
    with _lock:
        return _install_all(policy, adapters)


def _install_all(policy: Policy, adapters: dict[Host, Any]) -> dict[Host, Exception]:
    global _policy
    constructors.stand_down()
    _policy = policy
    problems = {}
    for host, adapter in adapters.items():
        if adapter is None:
            continue
        try:
            adapter.install(policy)
            if adapter not in _installed:
                _installed.append(adapter)
        except Exception as error:
            problems[host] = error
    for host in _within_reach():
        module = sys.modules.get(host.module)
        if host not in adapters and module is not None:
            # It was imported meanwhile.
            constructors.arm(module, host.constructors, _install_late, guard_late)
    return problems


def _load() -> dict[Host, Any]:
    """Return the adapters of the hosts that are imported, None for one that fails; await the others.

    Takes tens of ms, in which replaced constructors keep other threads from
    making bare pools. May wait for a host that another thread is importing.
    """
    with _lock:
        for host in HOSTS:
            if host.constructors and host.module not in {*sys.modules, *_awaited}:
                _awaited.add(host.module)
                when_imported(host.module, functools.partial(_on_import, host))
        hosts = _within_reach()
    from . import reporting  # noqa: F401 - the report looks on

    adapters: dict[Host, Any] = dict.fromkeys(hosts)
    problems = {}
    for host in hosts:
        try:
            import wrapt  # noqa: F401 - installing needs it, and must not wait for it

            adapters[host] = load(host)
        except Exception as error:
            problems[host] = error
    _tell(problems)
    return adapters


def _within_reach() -> list[Host]:
    """Return the hosts that are imported, or are being imported and will not be told of."""
    return [host for host in HOSTS if host.constructors and host.module not in _awaited]


def _tell(problems: dict[Host, Exception]) -> None:
    for host, error in problems.items():
        log.warning("poolwarden: %s is not guarded: %s", host.kind, error)


def _on_import(host: Host, module: Any) -> None:
    """Have a host that has just been imported installed with its first pool.

    Not now: to load its adapter would wait for other threads' imports, and
    this thread holds the lock of one that they may wait for.
    """
    with _lock:
        _awaited.discard(host.module)
        if _policy is not None:
            constructors.arm(module, host.constructors, _install_late, guard_late)


def _install_late() -> None:
    """Install the hosts that are imported by now; in the constructor of a user's first pool."""
    policy = _policy
    if policy is None:
        return
    adapters = _load()

    def step() -> dict[Host, Exception]:
        # If the policy is another one, a thread has called `install` or `uninstall` meanwhile, which counts.
        return _put_in_place(policy, adapters) if _policy is policy else {}

    _tell(in_one_step(step))


def guard_late(pool: Any) -> None:
    """Guard the first pool, whose construction had begun when the guard was installed."""
    try:
        policy = followed()
        if policy is not None:
            adapter_for(pool).guard_object(pool, policy)
    except TypeError:
        # The object only chooses joblib's backend, and is no pool.
        pass
    except Exception as error:
        constructors.complain(error)


def _in_forked_process() -> None:
    global _lock
    # A thread that does not exist here may have held it.
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_process)
