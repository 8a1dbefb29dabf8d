"""The clock of every bound and every deadline, in the parent and in the workers.

Tools that stand still or travel in time (freezegun, time-machine, a test that
replaces `time.monotonic` or `time.sleep`) put their own functions into `time`
and into every module that has taken one from there. A bound that is counted
with those never ends, or ends at once. They leave ``clock_gettime`` with
CLOCK_MONOTONIC alone, and what is kept here as a `functools.partial` is no
function that they look for.

A start that a worker has stamped is compared in the parent, so both take the
time from here. This clock is never set, and does not count the time in which
the machine is suspended.
"""

import time
from functools import partial

if hasattr(time, "clock_gettime_ns"):
    now = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    now_ns = partial(time.clock_gettime_ns, time.CLOCK_MONOTONIC)
    wall = partial(time.clock_gettime, time.CLOCK_REALTIME)
else:  # Windows
    now = partial(time.monotonic)
    now_ns = partial(time.monotonic_ns)
    wall = partial(time.time)

sleep = partial(time.sleep)
