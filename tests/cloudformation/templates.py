"""Loads the templates, and starts servers for the tests."""

import shutil
import socket
import sys
import time
from pathlib import Path

import yaml

TOP = Path(__file__).resolve().parent.parent.parent
TEMPLATES = TOP / "cloudformation"
# In the order in which docs/aws.md deploys them.
ORDER = ["ci_network", "cache", "seed_image", "prune_cache", "hash_server", "check_layer"]


class Loader(yaml.SafeLoader):
    """YAML with the short forms of CloudFormation's functions."""


def function(loader, suffix, node):
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        if name == "Fn::GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {name: value}


Loader.add_multi_constructor("!", function)


def load(name):
    return yaml.load((TEMPLATES / f"{name}.yml").read_text(), Loader)


def walk(value):
    """Yields all nested values, outermost first."""
    yield value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from walk(child)


def calls(template, name):
    return [value[name] for value in walk(template) if isinstance(value, dict) and name in value]


def listed(value):
    return value if isinstance(value, list) else [value]


def statements(resource):
    """Returns the policy statements of a resource, as if their conditions were true."""
    for value in walk(resource):
        if isinstance(value, dict) and isinstance(value.get("Statement"), list):
            for statement in value["Statement"]:
                yield statement["Fn::If"][1] if "Fn::If" in statement else statement


def resources(template, kind):
    return {name: it for name, it in template["Resources"].items() if it["Type"] == kind}


def hash_server_script():
    [container] = load("hash_server")["Resources"]["Task"]["Properties"]["ContainerDefinitions"]
    [script] = container["Command"]
    return script


def program(name):
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, answers, process, patience=60):
    end = time.monotonic() + patience
    while not answers():
        if process.poll() is not None:
            raise AssertionError(f"{what} ended with {process.returncode}")
        if time.monotonic() > end:
            raise AssertionError(f"{what} does not answer")
        time.sleep(0.2)


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
