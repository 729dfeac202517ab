"""What bitbake-setup itself makes of definitions: `python3 setup_view.py BITBAKE < FILES > VIEWS`, both JSON.

For each file there are views of several choices, also of wrong ones: `{"file", "words", "error"}`, or without an error
`{"sources", "layers", "relative", "fragments"}`. It calls the functions of bitbake-setup that choose.
"""

import copy
import importlib.machinery
import importlib.util
import json
import logging
import os
import sys

loader = importlib.machinery.SourceFileLoader("bitbake_setup", os.path.join(sys.argv[1], "bin/bitbake-setup"))
setup = importlib.util.module_from_spec(importlib.util.spec_from_loader("bitbake_setup", loader))
loader.exec_module(setup)
setup.logger.setLevel(logging.CRITICAL)


def name(option):
    return option["name"] if isinstance(option, dict) else option


def choices(configurations):
    """Each configuration with each of its options, one without any, and a configuration that does not exist."""
    yield ["no-such-configuration"]
    for configuration in setup.flatten_bitbake_configs(copy.deepcopy(configurations)):
        groups = [[name(one) for one in group["options"]] for group in configuration.get("oe-fragments-one-of", {}).values()]
        if groups:
            yield [configuration["name"]]
        for number in range(max((len(group) for group in groups), default=1)):
            yield [configuration["name"]] + [group[number % len(group)] for group in groups]


def view(data, words):
    configuration = setup.choose_bitbake_config(copy.deepcopy(data["bitbake-setup"]["configurations"]), words, True)
    chosen = setup.choose_fragments(configuration.get("oe-fragments-one-of", {}), words[1:], True, [])
    sources = {}
    for key, source in data["sources"].items():
        remote = source["git-remote"]
        sources[key] = {"path": source.get("path", key), "url": setup._get_remotes(remote)[0], "rev": remote["rev"]}
    return {
        "sources": sources,
        "layers": configuration.get("bb-layers", []),
        "relative": configuration.get("bb-layers-file-relative", []),
        "fragments": [name(one) for one in configuration.get("oe-fragments", [])] + sorted(chosen.values()),
    }


views = []
for file in json.load(sys.stdin):
    with open(file, encoding="utf-8") as opened:
        data = json.load(opened)
    for words in choices(data["bitbake-setup"]["configurations"]):
        try:
            made = view(data, words)
        except Exception as error:  # bitbake-setup raises plain exceptions
            made = {"error": str(error)}
        views.append({"file": file, "words": words, **made})
json.dump(views, sys.stdout)
