"""``poolwarden run``: another program in this process, with its pools guarded.

The program sees what it would see under plain ``python``: its arguments,
``__main__``, ``sys.path``, stdin and exit status; a traceback shows none of our
frames. `POOLWARDEN` is set for the processes that it starts. Where an
interpreter does not read our start-up file, a ``sitecustomize`` in `FOLLOW`
takes its place; where it reads neither (``-S``, ``-I``), only the program
itself and what it forks is guarded.
"""

from __future__ import annotations

import importlib.machinery
import io
import os
import runpy
import sys
import types
from typing import TYPE_CHECKING, Final

from ..activation import startup

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A folder with a ``sitecustomize.py``.
FOLLOW: Final = os.path.join(os.path.dirname(__file__), "follow")


def run(program: Sequence[str], *, is_module: bool, policy: str) -> None:
    """Run a program to its end; what it raises comes out of here.

    Parameters
    ----------
    program : sequence of str
        A script (or a directory or zip file with a ``__main__.py``) or the
        name of a module, and its arguments.
    is_module : bool
        Whether it is a module.
    policy : str
        What `POOLWARDEN` is to be for it, and for what it starts.

    Raises
    ------
    SystemExit
        As the program does; with a text as ``python`` says it if there is no
        such program.
    """
    os.environ[startup.VARIABLE] = policy
    _let_children_follow()
    startup.start()
    _hide_our_frames()
    sys.argv = list(program)
    # A pickled function of the program is looked up in `__main__`, here and in workers.
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    if is_module:
        _replace_first_path(os.getcwd())
        runpy._run_module_as_main(program[0])  # type: ignore[attr-defined]
    elif os.path.isdir(program[0]) or _is_archive(program[0]):
        _replace_first_path(os.path.abspath(program[0]))
        runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
    else:
        _run_script(os.path.abspath(program[0]), main)


def _run_script(path: str, main: types.ModuleType) -> None:
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError as error:
        why = f"[Errno {error.errno}] {error.strerror}"
        print(f"{sys.executable}: can't open file {path!r}: {why}", file=sys.stderr)
        raise SystemExit(2) from None
    _replace_first_path(os.path.dirname(os.path.realpath(path)))
    main.__file__ = path
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    main.__dict__["__cached__"] = None
    exec(compile(source, path, "exec", dont_inherit=True), main.__dict__)


def _replace_first_path(path: str) -> None:
    """Put what ``python`` would put first into `sys.path`, in the place of what it put there for us."""
    if not getattr(sys.flags, "safe_path", False) and not sys.flags.isolated:
        sys.path[0] = path


def _is_archive(path: str) -> bool:
    import zipfile

    return zipfile.is_zipfile(path)


def _let_children_follow() -> None:
    """Have interpreters that this one starts find `FOLLOW`, unless they read our start-up file."""
    if "poolwarden_startup" in sys.modules or _has_startup_file():
        return
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    paths = [FOLLOW, root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))


def _has_startup_file() -> bool:
    import site

    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return any(os.path.exists(os.path.join(folder, "poolwarden_startup.pth")) for folder in folders)


def _hide_our_frames() -> None:
    """Show tracebacks of the program as ``python`` does; a hook that the program sets itself comes later."""
    before = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
        rest = trace
        while rest is not None and rest.tb_frame.f_code.co_filename != __file__:
            rest = rest.tb_next
        if rest is not None:  # else it has not come through here
            while rest is not None and rest.tb_frame.f_code.co_filename == __file__:
                rest = rest.tb_next
            trace = rest
        before(kind, error.with_traceback(trace), trace)

    sys.excepthook = show
