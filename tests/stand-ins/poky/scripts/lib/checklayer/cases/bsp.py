"""Stands in for the cases of this name: the agent may look which tests there are."""


class BSPCheckLayer:
    def test_bsp_defines_machines(self):
        pass

    def test_bsp_no_set_machine(self):
        pass

    def test_machine_world(self):
        pass

    def test_machine_signatures(self):
        pass
