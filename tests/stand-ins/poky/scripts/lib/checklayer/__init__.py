"""How the original adds a layer. The agent looks for its very words."""


def add_layer(bblayersconf, path):
    with open(bblayersconf, 'a+') as f:
        f.write("\nBBLAYERS += \"%s\"\n" % path)
