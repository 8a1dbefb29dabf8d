"""Stop the world: make sure that no worker can hold a lock of the pool.

Covers processes, pipes and semaphores in general; which ones a host has is its
adapter's. Runs in the watchdog's thread, or in the one that ends a pool. Every
wait is bounded.

After a death outside of user code nobody knows who holds the locks: a POSIX
semaphore has no owner, and an idle worker waits *inside* the reader's lock. So
the world is stopped, and every live worker has to be proved harmless: it is in
user code, it has not begun, or the kernel says that it waits for a semaphore,
or for the next task in an empty pipe. Those that cannot be proved so are
killed as well. Then a lock that is taken belongs to the dead, and to release
it is safe. (Released while a live worker holds it, two readers would share one
pipe.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from .. import clock
from ..system import process_handle
from ..system.waiting import readable
from ..worker.ledger import READY, RUNNING, STARTING
from .workers import Kill, Worker

#: Seconds for a process to stop, or to end, after the signal was sent. It takes
#: well under a millisecond; a process in an uninterruptible wait takes longer.
SIGNAL_BOUND: Final = 2.0
#: Seconds for a process to stop where that cannot be seen.
UNSEEN_BOUND: Final = 0.02
#: Seconds that a thread of this process may hold a lock of the pool.
LOCK_BOUND: Final = 0.05
#: Seconds for a thread that has got a lock to go on.
HANDOVER_BOUND: Final = 0.001
#: Seconds that a live reader is given to take what is in the task pipe.
READER_BOUND: Final = 0.01


def freeze(workers: Iterable[Worker], bound: float = SIGNAL_BOUND) -> list[Worker]:
    """Stop workers and return those that were running; wait until they have stopped.

    A worker that somebody else has stopped is left out, so that it is not
    woken with the others. One that does not stop in `bound` seconds is treated
    as stopped: it is in the kernel and cannot change its phase soon. Where no
    state is shown, the signal is given a moment.
    """
    sent = [worker for worker in workers if not worker.is_stopped() and worker.send(signal.SIGSTOP)]
    unseen = [worker for worker in sent if not worker.has_ended() and not worker.shows_its_state()]
    seen = [worker for worker in sent if worker not in unseen]
    wait_until(lambda: all(worker.is_stopped() or worker.has_ended() for worker in seen), bound)
    if unseen:
        clock.sleep(UNSEEN_BOUND)
    return sent


def thaw(workers: Iterable[Worker]) -> None:
    """Let stopped workers go on."""
    for worker in workers:
        worker.send(signal.SIGCONT)


def waiting_readers(workers: Iterable[Worker], pipe: int) -> set[Worker]:
    """Return the workers that sleep until something is in `pipe`, when nothing is.

    They hold the reader's lock and have read nothing: the plumbing on this
    side is sound. Only while nobody writes to the pipe. Gives live readers a
    moment to take what is in it.

    Parameters
    ----------
    workers : iterable of Worker
        Live workers, not stopped.
    pipe : int
        Descriptor of the reading end in this process.
    """
    if not wait_until(lambda: not readable([pipe], 0), READER_BOUND):
        return set()
    return {worker for worker in still_waiting(workers, pipe) if worker.sleeps()}


def still_waiting(workers: Iterable[Worker], pipe: int) -> set[Worker]:
    """Return the workers that are in a system call that waits for `pipe`.

    For those that sleep, or have been stopped: one that waits with a timeout
    may have given up just before that.
    """
    inode = os.fstat(pipe).st_ino
    return {worker for worker in workers if _waits_for(worker, inode)}


def _waits_for(worker: Worker, inode: int) -> bool:
    call, fd = worker.system_call()
    if call not in ("read", "poll"):
        return False
    try:
        return os.stat(f"{process_handle.PROC}/{worker.pid}/fd/{fd}").st_ino == inode
    except OSError:
        return False


def is_harmless(worker: Worker) -> bool:
    """Return whether a stopped worker certainly holds no lock and no task unseen."""
    phase = worker.snapshot().phase
    is_known = not worker.may_hold_lock() and not worker.is_unknown()
    if is_known and (phase == RUNNING or (phase < READY and not worker.older)):
        return True
    # Waiting for a semaphore, in its only thread, is waiting for one of the
    # pool's: and who waits for one of them holds none.
    return worker.system_call()[0] == "futex" and worker.has_one_thread()


def begun_tickets(workers: Iterable[Worker]) -> set[int]:
    """Return the tickets whose code has begun to run in one of these workers, or has ended.

    A worker stores the ticket's number before it says RUNNING; until then the
    number means nothing, and the outcome stored last is of the task before.
    """
    begun = set()
    for worker in workers:
        seen = worker.snapshot()
        begun.add(seen.ticket if seen.phase == RUNNING else worker.outcome()[0])
    return begun


def kill_all_but(workers: Iterable[Worker], kept: Callable[[Worker], bool]) -> list[Worker]:
    """Kill stopped workers, wait for their end, and return those that are kept."""
    workers = list(workers)
    survivors = [worker for worker in workers if kept(worker)]
    killed = [worker for worker in workers if worker not in survivors]
    for worker in killed:
        # One that has died by itself meanwhile was not killed here.
        if not worker.has_ended():
            worker.killed = worker.killed or Kill("repair")
            worker.send(signal.SIGKILL)
    wait_until(lambda: all(worker.has_ended() for worker in killed), SIGNAL_BOUND)
    return survivors


def end_stuck(workers: Iterable[Worker], before: set[Worker]) -> set[Worker]:
    """Kill workers that a fork has left with a lock of this process's threads, at their birth or exit.

    So are those that somebody has stopped: they do not hear that they are to leave.
    Such a worker waits for ever, and the pool's end for it. It is outside of
    user code, and waits for a lock in its only thread; one that does so now may
    have to for a moment, so it is killed at the second look.

    Parameters
    ----------
    workers : iterable of Worker
        Live workers of a pool that has told them to leave.
    before : set of Worker
        What the look before has returned.

    Returns
    -------
    set of Worker
        Those that wait so now, and were not killed.
    """
    stuck = {
        worker
        for worker in workers
        if worker.snapshot().phase not in (STARTING, RUNNING)
        and not worker.is_unknown()
        and (
            worker.is_stopped()
            or (worker.system_call()[0] in ("futex", "own-lock") and worker.has_one_thread())
        )
    }
    for worker in stuck & before:
        worker.killed = worker.killed or Kill("repair")
        worker.send(signal.SIGKILL)
    return stuck - before


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Return `condition`, polled until it holds or `timeout` seconds are over.

    Polling, because there is nothing to wait on for "stopped"; the first
    rounds do not sleep since the answer mostly comes within microseconds.
    """
    deadline = clock.now() + timeout
    rounds = 0
    while not condition():
        if clock.now() >= deadline:
            return False
        rounds += 1
        clock.sleep(0 if rounds < 50 else 0.0005)
    return True


def free(lock: Any, bound: float = LOCK_BOUND) -> None:
    """Free a lock that a dead process may hold, when no live worker can hold it.

    A thread of this process may hold it for a moment, and is given `bound`
    seconds; the semaphore counts by how many it is held here.
    """
    if lock is None:
        return
    # A thread that got it at this moment has not counted it before it runs again.
    if not lock.acquire(True, HANDOVER_BOUND) and lock._semlock._count() > 0 and lock.acquire(True, bound):
        lock.release()
        return
    with contextlib.suppress(ValueError):
        lock.release()


def read_available(fd: int) -> bytes:
    """Return all bytes that are in a pipe now, without waiting for more."""
    parts = []
    while readable([fd], 0):
        part = os.read(fd, 1 << 16)
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def messages(data: bytes) -> Iterator[bytes]:
    """Yield the messages of `multiprocessing` in what was read from a pipe.

    The dead worker may have read the header of the first message and not the
    rest; so the beginning is where everything behind it falls into place.
    """
    for start in range(len(data)):
        position, found = start, []
        while position + 4 <= len(data):
            (size,) = struct.unpack_from("!i", data, position)
            # No message is empty; zeros in half a message would look like some.
            if size < 1 or position + 4 + size > len(data):
                break
            found.append(data[position + 4 : position + 4 + size])
            position += 4 + size
        if position == len(data):
            yield from found
            return
