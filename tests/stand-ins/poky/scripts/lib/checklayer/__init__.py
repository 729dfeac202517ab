"""How the original adds a layer and asks for signatures. The agent looks for its very words."""

WORLD = "bitbake %s -S lockedsigs world"


def add_layer(bblayersconf, path):
    with open(bblayersconf, 'a+') as f:
        f.write("\nBBLAYERS += \"%s\"\n" % path)
