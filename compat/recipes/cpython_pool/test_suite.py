"""CPython's tests of `multiprocessing` for one start method, as its own small modules make them."""

import os

from test._test_multiprocessing import install_tests_in_module_dict

install_tests_in_module_dict(globals(), os.environ["START_METHOD"])
