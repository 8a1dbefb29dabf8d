"""Interrupts a call at every point, one after the other, at which a signal handler can run.

CPython runs handlers at few kinds of bytecodes: at the start of a function, at
jumps back, and behind calls. A trace function finds these points in the frames
of some files, and does there what a handler would do. So a call is tried at
each of its points, and not at those that chance meets.
"""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

#: Calls in a row that are shorter, before a call is known to have no more points.
MISSES = 5

#: Bytecodes behind which the interpreter looks for signals.
_LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE", "INSTRUMENTED_CALL")


@functools.cache
def _points(code: CodeType) -> frozenset[int]:
    """Return the offsets of the bytecodes before which a handler may run."""
    found, before = set(), None
    for instruction in dis.get_instructions(code):
        if before is not None and before.opname.startswith(_LOOKS):
            found.add(instruction.offset)
        before = instruction
    return frozenset(found)


class At:
    """Calls `action` once, at the point number `number` of what is called under it.

    Attributes
    ----------
    place : str
        Where that was, empty if the call has fewer points.
    """

    def __init__(self, number: int, action: Callable[[], Any], files: tuple[str, ...]) -> None:
        self._left = number
        self._action = action
        self._files = files
        self.place = ""

    def call(self, func: Callable[[], Any]) -> Any:
        """Call `func`; what the action raises comes out of it."""
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            return func()
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self.place or not any(part in frame.f_code.co_filename for part in self._files):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self.place or event != "opcode" or frame.f_lasti not in _points(frame.f_code):
            return self._step
        self._left -= 1
        if self._left < 0:
            self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            self._action()
        return self._step


def every_point(
    func: Callable[[], Any],
    action: Callable[[], Any],
    files: tuple[str, ...] = ("poolwarden/",),
    step: int = 1,
) -> Any:
    """Yield ``(place, outcome)`` of `func` interrupted at each point: what it returned, or raised."""
    missed, number = 0, 0
    # A call may take a shorter way now and then.
    while missed < MISSES:
        # Code is traced by its opcodes from its second call on (3.12), anew behind each exception.
        At(1 << 30, action, files).call(func)
        at = At(number, action, files)
        try:
            outcome = at.call(func)
        except BaseException as error:
            outcome = error.with_traceback(None)
        if at.place:
            missed, number = 0, number + step
            yield at.place, outcome
        else:
            missed += 1
