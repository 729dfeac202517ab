"""Stands in for the cases of this name: the agent may look which tests there are."""


class CommonCheckLayer:
    def test_readme(self):
        pass

    def test_parse(self):
        pass

    def test_show_environment(self):
        pass

    def test_world(self):
        pass

    def test_world_inherit_class(self):
        self.extravars = 'INHERIT="yocto-check-layer"'

    def test_patches_upstream_status(self):
        pass

    def test_signatures(self):
        pass

    def test_layerseries_compat(self):
        pass
