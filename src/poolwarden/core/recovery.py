"""Stop the world, look, mend, go on: what follows a death outside of user code.

Covers the order of things, the same for every host; what a host's queues are
made of is its adapter's (`ports.HostQueue`), what can be done to processes, pipes
and locks is in `stop_world`. Runs in the watchdog's thread.

1. Nobody writes tasks, and no worker is born.
2. Every worker outside of user code is stopped; those that cannot be proved
   harmless are killed. Now a lock that is taken belongs to the dead (`world`).
3. If no live worker waits for the next task, the task pipe may hold half a
   message: it is emptied, with the reader's lock in our hands.
4. What had been sent, has not begun and has no answer is sent again, once the
   host has handled all answers that were on their way. What a worker that is
   older than the guard may just have read waits until that is known.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Final

from . import stop_world
from .ports import HostQueue
from .tickets import Ticket
from .workers import Worker
from .world import RestlessError, World

if TYPE_CHECKING:
    from .guard import Guard

#: Seconds to wait for a host's start of a worker, which holds `Guard.births`.
BIRTH_BOUND: Final = 10.0
#: Seconds to get a lock that no worker holds, and for the writer to come out of the gate.
QUEUE_BOUND: Final = 2.0
#: Seconds between two looks at workers of which nobody knows whether they hold a task.
UNKNOWN_STEP: Final = 0.2


def repair(guard: Guard, queue: HostQueue) -> None:
    """Put a pool's plumbing right; gives the pool up if that fails."""
    if not guard.births.acquire(timeout=BIRTH_BOUND):
        guard.break_pool("a new worker could not be started for a long time")
        return
    try:
        queue.gate.shut()
        _mend(guard, queue)
    finally:
        queue.gate.open()
        guard.births.release()


def _mend(guard: Guard, queue: HostQueue) -> None:
    known = guard.live_workers()
    workers = [worker for worker in known if not worker.has_ended()]
    readers: set[Worker] = set()
    if stop_world.wait_until(queue.is_quiet, stop_world.READER_BOUND):
        readers = stop_world.waiting_readers(workers, queue.reader())
    world = World(workers, readers, queue.reader(), queue.may_keep)
    try:
        world.stop()
        queue.free_other_locks(world.free)
        nobody_reads = not world.has_reader
        if nobody_reads and not world.take(queue.read_lock(), QUEUE_BOUND):
            guard.break_pool("the lock of its task queue could not be had")
            return
        # From here on nobody takes a task: the reader's lock is ours, or the pipe is empty. Of all
        # that are known: those that have died meanwhile, and those that have finished and wait to
        # send, had begun their tasks as well.
        begun = stop_world.begun_tickets(known)
        for worker in set(known).difference(world.kept):
            guard.deliver_last_outcome(worker)
    except RestlessError:
        guard.break_pool("its workers could not be held still")
        return
    finally:
        world.thaw()
    unread = queue.empty() if nobody_reads else set()
    unstarted = [
        (ticket, ticket.sendings)
        for ticket in list(guard.tickets.open.values())
        if ticket.sent and ticket.verdict is None and ticket.number not in begun
    ]
    if unknown := world.unknown:
        rest = [entry for entry in unstarted if entry[0].number not in unread]
        _send_when_known(guard, queue, rest, unknown)
        unstarted = [entry for entry in unstarted if entry[0].number in unread]
    queue.call_behind(lambda: _send_again(guard, unstarted))
    if nobody_reads and (lock := queue.read_lock()) is not None:
        lock.release()


def _send_when_known(
    guard: Guard, queue: HostQueue, tickets: list[tuple[Ticket, int]], unknown: list[Worker]
) -> None:
    """Send again what none of some workers older than the guard has taken, once they are known.

    One that was stopped between the read and its first mark in a record had no
    record to tell of it; its ticket ran twice.
    """
    live = guard.live_workers()
    if any(worker in live and worker.is_unknown() for worker in unknown):
        guard.call_later(UNKNOWN_STEP, lambda: _send_when_known(guard, queue, tickets, unknown))
        return
    begun = stop_world.begun_tickets(live)
    unstarted = [entry for entry in tickets if entry[0].number not in begun]
    queue.call_behind(lambda: _send_again(guard, unstarted))


def _send_again(guard: Guard, tickets: list[tuple[Ticket, int]]) -> None:
    """Send what is still unanswered again, but for what was cancelled. Result thread."""
    again = [
        ticket
        for ticket, sendings in tickets
        if ticket.number in guard.tickets.open
        and ticket.verdict is None
        and not ticket.begun
        # Another repair may have had the same ticket on its list.
        and ticket.sent
        and ticket.sendings == sendings
    ]
    for ticket in again:
        if ticket.cancelled:
            guard.fail(ticket, CancelledError())
    guard.adapter.resend(ticket for ticket in again if ticket.verdict is None)
