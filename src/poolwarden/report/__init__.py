"""A file that tells, after the program, what its pools have lost.

Asked for with ``POOLWARDEN_REPORT=path`` or ``poolwarden run --report path``;
the suffix says in which form: ``.json`` or ``.html``. Runs in the parent
process only. Covers what is kept of a run (`recording`, `track`, `sampling`),
what is told of it (`document`, `page`, `timeline`) and when it is written
(`writing`). Reads records, and knows neither pools nor hosts.

The file is written when the interpreter ends: after the last statement, an
exception, ``sys.exit`` or Ctrl-C. ``os._exit`` and signals end a process
without asking anybody: so it is also written, while there are pools, soon
after anything has happened, at most four times a second and in a twentieth of
one core's time at most; it then lacks the last moments. A report that the
variable asked for is written only if something happened (any event); one that
was asked for by name, always. The variable alone has pools guarded, too, as
``POOLWARDEN=1`` does; ``POOLWARDEN=0`` beside it means that nothing is.

Whose pools: the process in which `start` is called first owns the path. Its
path and pid stay in the environment, and every other program below it that
loses something writes a file of its own beside it, ``name-PID.suffix``; so
nobody overwrites what another has written. Workers of pools write nothing:
what their own pools lose fails their task, and is seen in its outcome. Of two
programs that a shell starts with one variable, the later one replaces the
file of the earlier.

Only the names of functions are kept, never arguments or results.

Schema of the JSON file
-----------------------
Times are seconds since the epoch; ``?`` marks what may be null.

``schema``
    1. A reader of 1 can read every later version that still says 1: fields may
    be added.
``poolwarden``, ``python``, ``platform``, ``program``, ``pid``
    Versions, the name of the script without its arguments, its process id.
``started``, ``ended``
    When recording began and when the file was written.
``counts``
    Number of events by kind, left out or not.
``left_out``
    What found no room: ``events``, ``stacks``, ``pools`` (their events are
    kept), ``workers`` (lives of workers), ``bars``. All 0 in a usual run.
``pools``
    A list of objects:

    ``name``, ``host``
        As in events; and what kind of pool it is.
    ``opened``, ``closed?``
        When it was guarded, and when it ended; null: not before the program.
    ``calls?``
        How many tasks and chunks it was given; null: it had not ended.
    ``workers``
        ``pid``, ``started``, ``ended?`` and ``end``: ``left`` (in an orderly
        way, or with its pool), ``lost`` (see the events), ``killed`` (by the
        guard), ``running`` (when the file was written).
    ``bars``
        What workers did: ``pid``, ``start``, ``end``, ``function`` (null:
        several), ``index?`` (of the item), ``tasks`` (how many were seen in
        this time), ``lost`` (its worker died or was killed in it). Workers are
        looked at up to 50 times a second, so tasks that are shorter are seen
        now and then only. The start of a bar is exact, its end is a look late
        at most. Bars that are too many are joined with their neighbours.
``events``
    A list, oldest first, of ``kind`` (one of `poolwarden.records.EVENT_KINDS`),
    ``time``, ``pool``, ``pid?``, ``detail``, ``stack?`` and

    ``task?``
        ``function``, ``index?``, ``site?`` (``file:line``), ``attempts``.
    ``exit?``
        ``pid?``, ``exitcode?``, ``signal?``, ``cause``, ``evidence`` (a list).
"""

from __future__ import annotations

from .writing import SUFFIXES, open_track, start, written

__all__ = ["SUFFIXES", "open_track", "start", "written"]
