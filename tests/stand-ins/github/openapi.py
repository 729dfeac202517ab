#!/usr/bin/env python3
"""Compares requests and answers with GitHub's OpenAPI description.

usage: openapi.py api.github.com.json exchanges.jsonl

A request must have a described method and path, only described query parameters and properties, all that are required, and
values of the described types and sizes. Each property of an answer of the stand-in must be described with its type; the
stand-in omits properties that the agent does not read.
"""

import json
import re
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    description = json.load(file)


def resolve(node):
    while "$ref" in node:
        found = description
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part.replace("~1", "/").replace("~0", "~")]
        node = found
    return node


def is_type(value, name):
    kinds = {"string": str, "object": dict, "array": list, "boolean": bool, "integer": int, "number": (int, float)}
    return isinstance(value, kinds[name]) and (name == "boolean" or not isinstance(value, bool))


def problems(value, schema, strict, place):
    """Yields what is wrong. `strict`: required properties must be there."""
    schema = resolve(schema)
    if value is None and schema.get("nullable"):
        return
    for many in ("anyOf", "oneOf"):
        if many in schema:
            found = [list(problems(value, one, strict, place)) for one in schema[many]]
            if all(found):
                yield from min(found, key=len)
            elif "type" not in schema:
                return
    for one in schema.get("allOf", []):
        yield from problems(value, one, strict, place)
    kind = schema.get("type")
    if kind and not is_type(value, kind):
        yield f"{place}: {value!r} is no {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{place}: {value!r} is not in {schema['enum']}"
    if isinstance(value, str):
        if len(value) > schema.get("maxLength", len(value)):
            yield f"{place}: {len(value)} characters"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{place}: {value!r} does not match {schema['pattern']}"
    if isinstance(value, list):
        if len(value) > schema.get("maxItems", len(value)):
            yield f"{place}: {len(value)} items"
        for number, item in enumerate(value):
            yield from problems(item, schema.get("items", {}), strict, f"{place}[{number}]")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        for name in schema.get("required", []) if strict else []:
            if name not in value:
                yield f"{place}: {name} is missing"
        for name, inner in value.items():
            if name in known:
                yield from problems(inner, known[name], strict, f"{place}.{name}")
            elif known and schema.get("additionalProperties", False) is False:
                yield f"{place}: {name} is not described"


def operation(method, path):
    """The operation of a path; one with fewer parameters comes first."""
    for template in sorted(description["paths"], key=lambda it: it.count("{")):
        if re.fullmatch(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(template)), path):
            found = description["paths"][template].get(method.lower())
            if found:
                return template, found
    return None, None


def check(exchange):
    method, path = exchange["method"], exchange["path"]
    template, found = operation(method, path)
    if not found:
        yield "the path is not described"
        return
    parameters = [resolve(it) for it in found.get("parameters", [])]
    queries = {it["name"]: it["schema"] for it in parameters if it["in"] == "query"}
    for name, text in exchange["query"].items():
        if name not in queries:
            yield f"the parameter {name} is not described"
            continue
        schema = resolve(queries[name])
        value = int(text) if schema.get("type") == "integer" else text
        yield from problems(value, schema, True, name)
    given = exchange["request"]
    body = found.get("requestBody")
    if body:
        schema = body["content"]["application/json"]["schema"]
        yield from problems(given, schema, True, "request")
    elif given is not None:
        yield "a body is not described"
    status = str(exchange["status"])
    if status not in found["responses"]:
        # Refusals that every operation may have are not described.
        if not status.startswith("4"):
            yield f"the status {status} is not described"
        return
    content = resolve(found["responses"][status]).get("content", {}).get("application/json")
    if content and exchange["answer"] is not None:
        yield from problems(exchange["answer"], content["schema"], False, "answer")


count = 0
wrong = []
with open(sys.argv[2], encoding="utf-8") as lines:
    for line in lines:
        exchange = json.loads(line)
        count += 1
        found = list(check(exchange))
        wrong += [f"{exchange['method']} {exchange['path']}: {it}" for it in found]
for it in dict.fromkeys(wrong):
    print(it)
if not count:
    sys.exit("no exchange was recorded")
sys.exit(1 if wrong else 0)
