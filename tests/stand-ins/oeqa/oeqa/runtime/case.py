"""Stand-in for OE-Core's base class of tests on a running system."""

import unittest


class OERuntimeTestCase(unittest.TestCase):
    pass
