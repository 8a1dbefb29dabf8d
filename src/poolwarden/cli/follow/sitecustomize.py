"""Stands in for a start-up file where none is read; see `poolwarden.cli.run`.

Python imports the first ``sitecustomize`` that it finds, so this one goes on to
the user's own.
"""

import importlib.machinery
import importlib.util
import os
import sys

import poolwarden_startup

_here = os.path.dirname(os.path.abspath(__file__))
_others = [path for path in sys.path if os.path.abspath(path) != _here]

poolwarden_startup.start()

_spec = importlib.machinery.PathFinder.find_spec("sitecustomize", _others)
if _spec is not None and _spec.loader is not None:
    _module = importlib.util.module_from_spec(_spec)
    sys.modules["sitecustomize"] = _module
    _spec.loader.exec_module(_module)
