"""Writes signature files as BitBake does from release 2.0 on, but uncompressed."""

import json
import os
import tempfile


def dump_sigtask(directory, name, data):
    os.makedirs(directory, exist_ok=True)
    descriptor, path = tempfile.mkstemp(dir=directory, prefix="sigtask.")
    with open(descriptor, "wt", encoding="utf-8") as file:
        json.dump(data, file, sort_keys=True)
        file.flush()
    os.rename(path, os.path.join(directory, f"{name}.do_build.sigdata.0"))
