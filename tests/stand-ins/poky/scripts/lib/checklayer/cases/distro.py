"""Stands in for the cases of this name: the agent may look which tests there are."""


class DistroCheckLayer:
    def test_distro_defines_distros(self):
        pass

    def test_distro_no_set_distros(self):
        pass
