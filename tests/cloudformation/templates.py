"""Loads the templates, evaluates them for given parameters, and starts servers for the tests."""

import functools
import os
import re
import shutil
import socket
import sys
import time
from pathlib import Path

import yaml

TOP = Path(__file__).resolve().parent.parent.parent
# The mutation test checks changed copies.
TEMPLATES = Path(os.environ.get("BUILD_AGENT_TEST_TEMPLATES") or TOP / "cloudformation")
# In the order in which `cloudformation/deploy` and docs/aws.md deploy them. Without the optional ones this is the
# default.
OPTIONAL = ["ci_network", "efs", "hash_server", "batch", "public_reports", "post_results", "lab", "device_tests", "aws_batch"]
ORDER = [
    "source_credential",
    "ci_network",
    "efs",
    "cache",
    "seed_image",
    "alerts",
    "prune_cache",
    "hash_server",
    "check_layer",
    "batch",
    "public_reports",
    "post_results",
    "lab",
    "device_tests",
    "aws_batch",
]
DEFAULT = [name for name in ORDER if name not in OPTIONAL]


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


@functools.cache
def load(name):
    """Returns the template. It is shared: do not change it."""
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


def statements(value):
    """Returns all policy statements in a template or in a part of it, those of all conditions."""
    for it in walk(value):
        if isinstance(it, dict) and "Effect" in it:
            yield it


def resources(template, kind):
    return {name: it for name, it in template["Resources"].items() if it["Type"] == kind}


NOTHING = object()  # AWS::NoValue
PSEUDO = {
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::AccountId": "123456789012",
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::StackName": "stack",
    "AWS::NoValue": NOTHING,
}


class Stack:
    """A template evaluated for parameters, as CloudFormation does it; imports are `<NAME OF THE EXPORT>`, and other
    resources are `<LOGICAL NAME>` or `<LOGICAL NAME.ATTRIBUTE>`."""

    def __init__(self, name, **given):
        self.template = load(name)
        parameters = self.template["Parameters"]
        unknown = set(given) - set(parameters)
        assert not unknown, f"{name} has no parameter {unknown}"
        self.parameters = {}
        for key, it in parameters.items():
            value = str(given[key] if key in given else it["Default"])
            values = value.split(",") if it["Type"] == "CommaDelimitedList" else [value]
            for one in values:
                assert re.fullmatch(it.get("AllowedPattern", "(?s).*"), one), f"{key}={one}"
                assert one in [str(allowed) for allowed in it.get("AllowedValues", [one])], f"{key}={one}"
            self.parameters[key] = values if it["Type"] == "CommaDelimitedList" else value
        self.imports = set()
        self.resources = {
            name: self.value(it)
            for name, it in self.template["Resources"].items()
            if "Condition" not in it or self.condition(it["Condition"])
        }
        for output in self.template["Outputs"].values():
            if "Condition" not in output or self.condition(output["Condition"]):
                self.value(output["Value"])

    def broken_rules(self):
        """The rules that these parameters violate, with their messages."""
        return {
            name: [it["AssertDescription"] for it in rule["Assertions"] if not self.value(it["Assert"])]
            for name, rule in self.template.get("Rules", {}).items()
            if self.value(rule.get("RuleCondition", True))
            and not all(self.value(it["Assert"]) for it in rule["Assertions"])
        }

    def condition(self, name):
        return self.value(self.template["Conditions"][name])

    def value(self, it):
        if isinstance(it, list):
            return [value for value in map(self.value, it) if value is not NOTHING]
        if not isinstance(it, dict):
            return it
        if len(it) == 1:
            [(name, argument)] = it.items()
            # `Condition` is a function in conditions; a policy's `Condition` is not a name.
            if name == "Ref" or name.startswith("Fn::") or (name == "Condition" and isinstance(argument, str)):
                return self.call(name, argument)
        values = {key: self.value(value) for key, value in it.items()}
        return {key: value for key, value in values.items() if value is not NOTHING}

    def call(self, name, argument):
        if name == "Condition":
            return self.condition(argument)
        if name == "Ref":
            return self.reference(argument)
        if name == "Fn::If":
            condition, yes, no = argument
            return self.value(yes if self.condition(condition) else no)
        if name == "Fn::Sub":
            text, values = argument if isinstance(argument, list) else (argument, {})
            values = {key: self.value(value) for key, value in values.items()}
            filled = re.sub(
                r"\$\{([^!}][^}]*)\}", lambda it: str(values[it[1]] if it[1] in values else self.reference(it[1])), text
            )
            return filled.replace("${!", "${")
        argument = self.value(argument)
        if name == "Fn::GetAtt":
            return f"<{'.'.join(argument)}>"
        if name == "Fn::ImportValue":
            self.imports.add(argument)
            return f"<{argument}>"
        if name == "Fn::FindInMap":
            return self.template["Mappings"][argument[0]][argument[1]][argument[2]]
        if name == "Fn::GetAZs":
            return ["zone-a", "zone-b", "zone-c"]
        if name == "Fn::Select":
            return argument[1][int(argument[0])]
        if name == "Fn::Split":
            return argument[1].split(argument[0])
        if name == "Fn::Join":
            return argument[0].join(argument[1])
        functions = {
            "Fn::Base64": lambda a: a,
            "Fn::Equals": lambda a: str(a[0]) == str(a[1]),
            "Fn::Not": lambda a: not a[0],
            "Fn::And": all,
            "Fn::Or": any,
        }
        return functions[name](argument)

    def reference(self, name):
        if name in PSEUDO:
            return PSEUDO[name]
        if name in self.parameters:
            return self.parameters[name]
        assert name.split(".")[0] in self.template["Resources"], name
        return f"<{name}>"

    def properties(self, name):
        return self.resources[name]["Properties"]

    def variables(self, project):
        environment = self.properties(project)["Environment"]
        return {it["Name"]: it["Value"] for it in environment.get("EnvironmentVariables", [])}

    def buildspec(self, project):
        return yaml.safe_load(self.properties(project)["Source"]["BuildSpec"])

    def exports(self):
        return {self.value(it["Export"]["Name"]) for it in self.template["Outputs"].values() if "Export" in it}


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
