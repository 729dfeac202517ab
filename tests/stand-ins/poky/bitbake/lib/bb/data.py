"""Stand-in for BitBake's data functions."""


def inherits_class(name, data):
    return name in (data.getVar("INHERITS") or "").split()
