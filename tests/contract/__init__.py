"""The fault table as a test suite that every guarded host inherits.

`suite.PoolContract` puts together one class per theme; a row of the table is
named in the docstring of the class that tests it:

====================  ===========================================================
module                rows
====================  ===========================================================
`deaths`              1, 2, 12: a worker dies while it runs a task; retries
`idle_deaths`         4, 5, 20: it dies idle, reading, sending, at random moments
`payloads`            3, 6, 7, 8: exits, and what cannot be (un)pickled
`starting`            9: the initializer raises, exits, hangs
`hangs`               10: tasks that never end
`surroundings`        11, 13, 14, 15, 18: memory, parent, grandchildren, signals
`ending`              16, 17: callbacks that raise; every way a pool can end
`healthy`             nothing goes wrong, and nothing is different
====================  ===========================================================

``pytest -k IdleWorkerDies`` runs one theme for every host, by the name of its
class.

A host takes part with a subclass of `binding.PoolBinding`. `tasks` holds what
runs in workers, `programs` what has to run as a program of its own, `waiting`
every bound, `leaks` the check that runs after each test of the whole run.
Nothing is imported here: workers import `tasks` through this package.
"""
