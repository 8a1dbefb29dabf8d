"""What `tests.chaos` submits, and what comes back, item by item.

Covers what a task must answer and the file in which tasks write down that they
ran; the verdict over a run is in `tests.chaos_verdict`. Starts no process and knows
no pool. `work` runs in the workers; the rest in the process that owns the
pool, in any thread.
"""

from __future__ import annotations

import os
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

STARTED, FINISHED = 1, 2

# Sixteen bytes divide a page, so that a record never crosses one: the kernel looks for a SIGKILL only
# between pages, which makes each append all or nothing.
RECORD = struct.Struct("<iiq")


class Shape(NamedTuple):
    """One task: its number and how large and slow it is (bytes, seconds)."""

    number: int
    argument_size: int
    answer_size: int
    pause: float

    def call(self, log: str) -> tuple[int, bytes, int, float, str]:
        """Return the arguments of `work` for this task."""
        argument = _pattern(self.number, self.argument_size)
        return self.number, argument, self.answer_size, self.pause, log

    def answer(self) -> tuple[int, int, bytes]:
        """Return what `work` must return for this task."""
        return _answer(self.number, _pattern(self.number, self.argument_size), self.answer_size)


def work(number: int, argument: bytes, answer_size: int, pause: float, log: str) -> tuple[int, int, bytes]:
    """Return the answer of one task, and write into `log` that its code ran."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, RECORD.pack(number, os.getpid(), STARTED))
        if pause:
            time.sleep(pause)
        answer = _answer(number, argument, answer_size)
        os.write(descriptor, RECORD.pack(number, os.getpid(), FINISHED))
    finally:
        os.close(descriptor)
    return answer


def _answer(number: int, argument: bytes, size: int) -> tuple[int, int, bytes]:
    return number, zlib.crc32(argument), _pattern(number ^ 0x5A5A5A5A, size)


def _pattern(number: int, size: int) -> bytes:
    return number.to_bytes(8, "little") * (size // 8)


def read_log(log: str) -> Iterator[tuple[int, int, int]]:
    """Yield ``(number, pid, STARTED or FINISHED)`` in the order of writing."""
    with open(log, "rb") as file:
        while data := file.read(RECORD.size << 16):
            yield from RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size])


class Blame(NamedTuple):
    """What the error of a lost task claims; the error itself would keep the frames that it came through."""

    pid: int | None
    exitcode: int | None
    may_have_run: bool
    text: str


@dataclass(frozen=True)
class Group:
    """The items of one call of a submission method.

    Attributes
    ----------
    method : str
        Name of the method, as `multiprocessing.Pool` spells it.
    shapes : list of Shape
        One for ``apply`` and ``apply_async``.
    chunksize : int
        For the methods that have one.
    may_hide : bool
        Whether an error may hide the other items' answers: that of a map
        always does, and one in a chunk of ``imap`` ends the host's iterator.
    """

    method: str
    shapes: list[Shape]
    chunksize: int = 1
    may_hide: bool = False


#: What becomes of a task; the first is none yet.
FATES = ("", "result", "loss", "hidden", "wrong", "unanswered")


class Tally:
    """What was submitted and what became of it. Callable from any thread.

    Takes two bytes for each task that is answered, so that a million are no matter.

    Parameters
    ----------
    loss : type or tuple of types
        The only errors a task may end with; ``()`` for none.

    Attributes
    ----------
    submitted, settled : int
        How many tasks were submitted, and how many have an answer.
    waiting : dict
        By number, when those without an answer were submitted.
    lost : dict
        What the errors of lost tasks claim.
    """

    def __init__(self, loss: type[BaseException] | tuple[type[BaseException], ...]) -> None:
        self.loss = loss
        self.changed = threading.Condition()
        self.submitted = self.settled = 0
        self.waiting: dict[int, float] = {}
        self.lost: dict[int, Blame] = {}
        self._fates = bytearray()
        self._answers = bytearray()
        self.problems: list[tuple[str, str]] = []
        self.longest = 0.0
        self.beat = time.monotonic()
        self.stalled = False

    @property
    def outstanding(self) -> int:
        return len(self.waiting)

    def fate(self, number: int) -> str:
        """Return what became of a task, empty for nothing yet."""
        return FATES[self._fates[number]]

    def fates(self) -> Counter[str]:
        """Return how many tasks had which fate."""
        return Counter({fate: count for n, fate in enumerate(FATES) if n and (count := self._fates.count(n))})

    def answers(self, number: int) -> int:
        """Return how often a task was answered; no more than 255 times are counted."""
        return self._answers[number]

    def numbers(self, condition: Callable[[int, int], bool]) -> list[int]:
        """Return the tasks whose fate, as an index into `FATES`, and number of answers fulfil a condition."""
        pairs = zip(self._fates, self._answers, strict=True)
        return [number for number, pair in enumerate(pairs) if condition(*pair)]

    def submit(self, group: Group) -> None:
        """Note that the tasks of `group` are about to be submitted."""
        with self.changed:
            self.submitted += len(group.shapes)
            self.waiting.update(dict.fromkeys((s.number for s in group.shapes), time.monotonic()))
            missing = max(s.number for s in group.shapes) + 1 - len(self._fates)
            self._fates.extend(bytes(missing))
            self._answers.extend(bytes(missing))

    def settle(self, number: int, fate: str, problem: str | None = None) -> None:
        """Note one answer of one task; the first decides, more are counted."""
        with self.changed:
            self.beat = time.monotonic()
            self._answers[number] = min(self._answers[number] + 1, 255)
            if problem is not None:
                self.problems.append((fate, f"task {number}: {problem}"))
            if not self._fates[number]:
                self._fates[number] = FATES.index(fate)
                self.settled += 1
                self.longest = max(self.longest, self.beat - self.waiting.pop(number))
            self.changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> bool:
        """Return True once `condition` holds, False when nothing moves any more."""
        with self.changed:
            self.changed.wait_for(lambda: self.stalled or condition())
            return not self.stalled

    def nudge(self) -> None:
        """Let everybody who waits look again."""
        with self.changed:
            self.changed.notify_all()

    def stall(self) -> None:
        """Release everybody who waits: the run is given up."""
        with self.changed:
            self.stalled = True
            self.changed.notify_all()


class Reply:
    """Where the answers of one group go; its methods serve as pool callbacks."""

    def __init__(self, tally: Tally, group: Group) -> None:
        self._tally = tally
        self._group = group

    def one(self, value: Any) -> None:
        """Take the result of ``apply``."""
        self._take(self._group.shapes[0], value)

    def every(self, values: list[Any]) -> None:
        """Take the result of ``map``."""
        if len(values) > len(self._group.shapes):
            self._tally.problems.append(("wrong", f"{self._group.method} gave {len(values)} answers"))
        for position, (shape, value) in enumerate(zip(self._group.shapes, values, strict=False)):
            self._take(shape, value, position)
        self._close(raised=False, method_returned=len(values))

    def each(self, iterator: Iterator[Any]) -> None:
        """Take what ``imap`` or ``imap_unordered`` yields, to the end."""
        raised, count = False, 0
        while True:
            value: Any
            try:
                value = next(iterator)
            except StopIteration:
                break
            except Exception as error:
                value, raised = error, True
            position = count if self._group.method == "imap" else self._position(value)
            if raised and self._group.may_hide:
                position = self._position(value)
            if position is None or position >= len(self._group.shapes):
                self._tally.problems.append(("wrong", f"{self._group.method} yielded {brief(value)}"))
            else:
                self._take(self._group.shapes[position], value, position)
            count += 1
        self._close(raised, count)

    def failed(self, error: BaseException) -> None:
        """Take the exception of ``apply`` or ``map``."""
        position = 0 if len(self._group.shapes) == 1 else self._position(error)
        if position is None or position >= len(self._group.shapes):
            self._tally.problems.append(("wrong", f"{self._group.method} raised {brief(error)}"))
        else:
            self._take(self._group.shapes[position], error)
        self._close(raised=True, method_returned=0)

    def _position(self, value: Any) -> int | None:
        if isinstance(value, BaseException):
            return getattr(getattr(value, "task", None), "index", None)
        try:
            return int(value[0]) - self._group.shapes[0].number
        except (TypeError, ValueError, LookupError):
            return None

    def _take(self, shape: Shape, value: Any, position: int | None = None) -> None:
        tally = self._tally
        if isinstance(value, tally.loss):
            exit = getattr(value, "exit", None)
            tally.lost[shape.number] = Blame(
                getattr(exit, "pid", None),
                getattr(exit, "exitcode", None),
                getattr(value, "may_have_run", True),
                brief(value),
            )
            if position is None or self._position(value) == position:
                tally.settle(shape.number, "loss")
            else:
                named = self._position(value)
                tally.settle(shape.number, "wrong", f"item {position} got the error of item {named}")
        elif value == shape.answer():
            tally.settle(shape.number, "result")
        else:
            tally.settle(shape.number, "wrong", f"{self._group.method} gave {brief(value)}")

    def _close(self, raised: bool, method_returned: int) -> None:
        """Settle what this call will never answer."""
        for shape in self._group.shapes:
            if self._tally.fate(shape.number):
                continue
            if raised and self._group.may_hide:
                self._tally.settle(shape.number, "hidden")
            else:
                text = f"{self._group.method} ended after {method_returned} of {len(self._group.shapes)}"
                self._tally.settle(shape.number, "unanswered", text)


def brief(value: Any) -> str:
    """Return a value or error on one line."""
    return f"{type(value).__name__}: {value!s}"[:300].replace("\n", " | ")
