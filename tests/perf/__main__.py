"""``python -m tests.perf``: all measurements, or some, as a table.

python -m tests.perf                    all, in less than five minutes
python -m tests.perf --only apply --pairs 15
python -m tests.perf --quick            does it work at all?
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time

from . import deaths, executors, idle, parallel, payloads, queueing, startup, throughput, timeouts
from .pairs import Case, Result, results, run
from .table import render

MODULES = (throughput, payloads, parallel, deaths, executors, timeouts, idle, startup, queueing)
CASES: dict[str, Case] = {case.name: case for module in MODULES for case in module.CASES}


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.perf", description="Bare and guarded pool in turn."
    )
    parser.add_argument("--only", action="append", metavar="NAME", choices=CASES, help=", ".join(CASES))
    parser.add_argument("--pairs", type=int, help="rounds of each measurement")
    parser.add_argument("--quick", action="store_true", help="small and short; the figures mean little")
    parser.add_argument("--json", metavar="PATH", help="write the figures there too")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "VARIANT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Return the exit status: 1 if a measurement failed."""
    options = parse()
    if options.measure:
        name, variant = options.measure
        print(json.dumps(CASES[name].measure(variant, options.quick)), flush=True)
        return 0
    began = time.monotonic()
    found: list[Result] = []
    for name in options.only or CASES:
        case = CASES[name]
        print(f"{name} ...", file=sys.stderr, flush=True)
        outcome = run(case, options.pairs or (2 if options.quick else case.rounds), options.quick)
        found.extend(results(case, outcome))
    print(render(found))
    machine = f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    print(
        f"\nPython {platform.python_version()}, {machine}, load {os.getloadavg()[0]:.1f} at the end, "
        f"took {time.monotonic() - began:.0f} s. Medians; x and +: of pairs, each run in its own process."
    )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump([dataclasses.asdict(result) for result in found], file, indent=1)
    return 1 if any(result.failure for result in found) else 0


if __name__ == "__main__":
    sys.exit(main())
