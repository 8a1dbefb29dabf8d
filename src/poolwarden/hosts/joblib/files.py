"""joblib's folders of mapped arrays, and what a call that fails leaves of them.

joblib puts large arguments into files, in a folder for each ``Parallel``
object. Its resource tracker counts who uses a file, and removes it when nobody
does. If a task raises, the bare backend kills all workers and removes every
folder. Ours keep the workers, which give files back one by one, and may have
kept an array; the files of other calls stay. Runs in the thread that calls
``Parallel``.
"""

from __future__ import annotations

import atexit
import importlib
import os
import weakref
from collections import deque
from typing import Any, Final

_tracker: Final[Any] = importlib.import_module("joblib.externals.loky.backend.resource_tracker")
#: Removed files that are remembered, for `_forget`.
REMEMBERED: Final = 1000

#: The context that an executor begins with, by the manager of its folders; no call uses it.
_first_contexts: Final[weakref.WeakKeyDictionary[Any, str]] = weakref.WeakKeyDictionary()
#: Files that were removed while the tracker counted users of them.
_removed: Final[deque[str]] = deque()


def note_first_context(executor: Any) -> None:
    """Remember which of the folders is no call's; before any call has ended."""
    manager = executor._temp_folder_manager
    if manager not in _first_contexts:
        _first_contexts[manager] = next(iter(manager._cached_temp_folders), "")


def clean_up(executor: Any, context: str, *, died: bool) -> None:
    """Remove the folder of a call none of whose tasks is running any more.

    Parameters
    ----------
    executor : joblib.executor.MemmappingExecutor
        Has the folder.
    context : str
        Names the folder: the ``_id`` of the ``Parallel`` object.
    died : bool
        Whether workers have died: those never give anything back.
    """
    manager = executor._temp_folder_manager
    folder = manager._cached_temp_folders.get(context, "")
    if not died:
        # Gives up what the call itself holds, and waits a second for the workers.
        manager._clean_temporary_resources(context_id=context)
    if os.path.isdir(folder) and not _is_busy(executor):
        _remove(manager, context, folder)
    _count_anew(executor, folder)


def clean_up_failed(executor: Any, context: str, *, died: bool) -> None:
    """Likewise for a call that failed, and with the folder that is no call's, as the bare backend does."""
    manager = executor._temp_folder_manager
    clean_up(executor, context, died=died)
    manager._clean_temporary_resources(context_id=_first_contexts.get(manager, ""))
    # Others that run beside it are told to use the folder of the call that began last.
    manager.register_new_context(context)


def _is_busy(executor: Any) -> bool:
    """Return whether another call has tasks there, which may use any folder."""
    items = list(executor._pending_work_items.values())
    return any(not getattr(item, "caller", item.future).done() for item in items)


def _remove(manager: Any, context: str, folder: str) -> None:
    """Remove a folder with files that workers have kept, or died with; what is mapped stays so."""
    paths = [os.path.join(folder, name) for name in os.listdir(folder)]
    for path in paths:
        # One more, for the one that is taken away in a moment: the workers' own have to go on counting.
        _tracker.register(path, "file")
    manager._clean_temporary_resources(context_id=context, allow_non_empty=True)
    if not _removed:
        atexit.register(_forget, 0)
    _removed.extend(paths)
    _forget(REMEMBERED)


def _forget(left: int) -> None:
    """Have the tracker not complain of what nobody gave back: at the exit, when no worker is left."""
    while len(_removed) > left:
        path = _removed.popleft()
        # It complains of one that it does not know, too.
        _tracker.register(path, "file")
        _tracker.unregister(path, "file")


def _count_anew(executor: Any, folder: str) -> None:
    """Have a file that is written again counted for its call again, and not for its workers alone."""
    for reducer in (getattr(executor._call_queue, "_reducers", None) or {}).values():
        names: set[str] = getattr(reducer, "_temporary_memmaped_filenames", set())
        names.difference_update([name for name in list(names) if os.path.dirname(name) == folder])
