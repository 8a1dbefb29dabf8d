"""The tests of `multiprocess` for one start method."""

import os

from multiprocess.tests import install_tests_in_module_dict

install_tests_in_module_dict(globals(), os.environ["START_METHOD"])
