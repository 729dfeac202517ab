#!/usr/bin/env python3
"""The parts of CodeBuild's API that a batch needs, on loopback. The builds of a batch are processes of this machine.

usage: server.py DIRECTORY

Reads DIRECTORY/config.json, writes its port to DIRECTORY/port. Each build has DIRECTORY/builds/ID with a clone of the source
in `src`, its output in `log`, and a directory in the place of /tmp/build-agent-out.

config.json: `project`, as BatchGetProjects returns it; `source`, a git repository; `environment`, more variables of the
builds; `path`, directories before PATH; `faults`: identifier to what happens to its first build: `never` (FAULT before it
starts), `lost` (killed when it has begun, and FAULT), `timed-out` (the same with TIMED_OUT); `store`, a directory in which
the mark of a cell that has begun is looked for; `parallel`, how many builds run at once; `refuses-list`, whether the role may not list batches.

`POST /_retry` runs the failed builds of a batch again, and those that depend on them, as RetryBuildBatch does. `POST
/_throttle` refuses so many of the next requests; with `drop`, it closes their connections instead. `GET /_state` returns the batches and the requests.
"""

import glob
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import yaml

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import loopback

directory = sys.argv[1]
with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
    config = json.load(file)
PROJECT = config["project"]["name"]
ARN = f"arn:aws:codebuild:eu-west-1:123456789012:build/{PROJECT}:"
NODE_KEYS = {"identifier", "buildspec", "debug-session", "depend-on", "env", "ignore-failure"}
ENDED = {"SUCCEEDED", "FAILED", "FAULT", "TIMED_OUT", "STOPPED"}
lock = threading.RLock()
batches, tokens, requests = {}, {}, []
faults = dict(config.get("faults", {}))
throttled, drops = 0, False
running = {}


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.body = {"__type": code, "message": message}


def check_spec(text):
    """The rules of the reference for buildspecs of batches that a spec of the agent could break."""
    spec = yaml.safe_load(text)
    require = lambda good, why: None if good else (_ for _ in ()).throw(Refused("InvalidInputException", why))
    require(isinstance(spec, dict) and str(spec.get("version")) == "0.2", "version")
    require(set(spec) <= {"version", "env", "batch", "phases", "reports", "artifacts", "run-as", "proxy"}, "unknown key")
    graph = spec["batch"]["build-graph"]
    names = [node["identifier"] for node in graph]
    require(len(names) == len(set(names)), "identifiers are not unique")
    for node in graph:
        require(set(node) <= NODE_KEYS, f"unknown key in {node}")
        require(all(c.isascii() and (c.isalnum() or c == "_") for c in node["identifier"]), "identifier")
        require(set(node.get("depend-on", [])) <= set(names), "unknown dependency")
        require(isinstance(node.get("ignore-failure", False), bool), "ignore-failure")
        allowed = config["project"]["buildBatchConfig"].get("restrictions", {}).get("computeTypesAllowed")
        compute = node.get("env", {}).get("compute-type", config["project"]["environment"]["computeType"])
        require(not allowed or compute in allowed, f"{compute} is not allowed")
    most = config["project"]["buildBatchConfig"].get("restrictions", {}).get("maximumBuildsAllowed", 100)
    require(len(graph) <= most, "The number of builds is more than the maximum")
    for command in spec["phases"]["build"]["commands"]:
        require(isinstance(command, str), "a command is no text")
    return spec


def start(body):
    token = body.get("idempotencyToken")
    if token in tokens:
        return batches[tokens[token]]
    if body["projectName"] != PROJECT:
        raise Refused("ResourceNotFoundException", "no such project")
    spec = check_spec(body["buildspecOverride"])
    batch = {
        "id": f"{PROJECT}:{uuid.uuid4()}",
        "status": "IN_PROGRESS",
        "version": body["sourceVersion"],
        "variables": body.get("environmentVariablesOverride", []),
        "spec": spec,
        "groups": {
            node["identifier"]: {"node": node, "builds": []} for node in spec["batch"]["build-graph"]
        },
    }
    batches[batch["id"]] = batch
    tokens[token] = batch["id"]
    return batch


def status(group):
    return group["builds"][-1]["status"] if group["builds"] else None


def summary(build):
    return {"arn": ARN + build["id"], "buildStatus": build["status"]}


def shown(batch):
    groups = []
    for name, group in batch["groups"].items():
        it = {"identifier": name, "dependsOn": group["node"].get("depend-on", [])}
        it["ignoreFailure"] = group["node"].get("ignore-failure", False)
        if group["builds"]:
            it["currentBuildSummary"] = summary(group["builds"][-1])
            it["priorBuildSummaryList"] = [summary(build) for build in group["builds"][:-1]]
        groups.append(it)
    return {
        "id": batch["id"], "buildBatchStatus": batch["status"], "phases": [], "buildGroups": groups,
        "sourceVersion": batch["version"], "environment": {"environmentVariables": batch["variables"]},
    }


def git(*words):
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()


def run(batch, name, build):
    """One build, from its source to its status."""
    fault = faults.pop(name, None)
    if fault == "never":
        build["status"] = "FAULT"
        return
    place = os.path.join(directory, "builds", build["id"])
    source, out = os.path.join(place, "src"), os.path.join(place, "out")
    os.makedirs(place)
    git("clone", "--quiet", config["source"], source)
    version = batch["version"]
    if version.startswith("pr/"):
        git("-C", source, "fetch", "--quiet", "origin", f"refs/pull/{version.removeprefix('pr/')}/head")
        version = "FETCH_HEAD"
    git("-C", source, "checkout", "--quiet", "--detach", version)
    commit = git("-C", source, "rev-parse", "HEAD")
    path = os.pathsep.join([*config.get("path", []), os.environ["PATH"]])
    environment = {
        "PATH": path, "HOME": os.environ.get("HOME", "/"), "CI": "true",
        "CODEBUILD_BUILD_ID": f"{PROJECT}:{build['id']}", "CODEBUILD_BATCH_BUILD_IDENTIFIER": name,
        "CODEBUILD_SRC_DIR": source, "CODEBUILD_SOURCE_VERSION": batch["version"],
        "CODEBUILD_RESOLVED_SOURCE_VERSION": commit, "BUILD_AGENT_WORK_DIR": os.path.join(place, "work"),
        "BUILD_AGENT_METRICS": "off", **{it["name"]: it["value"] for it in batch["variables"]}, **config.get("environment", {}),
    }
    commands = "\n".join(batch["spec"]["phases"]["build"]["commands"]).replace("/tmp/build-agent-out", out)
    with open(os.path.join(place, "log"), "wb") as log:
        words = {"cwd": source, "env": environment, "stdout": log, "stderr": log, "start_new_session": True}
        process = subprocess.Popen(["bash", "-c", commands], stdin=subprocess.DEVNULL, **words)
        running[build["id"]] = process
        killed = None
        while process.poll() is None:
            mark = glob.glob(os.path.join(config.get("store", ""), "**", "cells", name, "*", "started"), recursive=True)
            if fault in ("lost", "timed-out") and mark:
                killed = "FAULT" if fault == "lost" else "TIMED_OUT"
                end(process, signal.SIGKILL)
            elif batch["status"] == "STOPPED":
                killed = "STOPPED"
                end(process, signal.SIGTERM)
                wait_for_group(process, 60)
                end(process, signal.SIGKILL)
            time.sleep(0.05)
        del running[build["id"]]
    build["code"] = process.returncode
    build["status"] = killed or ("SUCCEEDED" if process.returncode == 0 else "FAILED")


def end(process, how):
    try:
        os.killpg(process.pid, how)
    except ProcessLookupError:
        pass


def wait_for_group(process, seconds):
    """The shell ends before the agent below it."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        process.poll()
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)


def schedule():
    """Starts each build whose dependencies are over, as the graph says."""
    while True:
        with lock:
            for batch in batches.values():
                advance(batch)
        time.sleep(0.05)


def advance(batch):
    groups = batch["groups"]
    for name, group in groups.items():
        if status(group) is not None or batch["status"] != "IN_PROGRESS" or len(running) >= config.get("parallel", 2):
            continue
        above = [groups[it] for it in group["node"].get("depend-on", [])]
        goes_on = lambda it: status(it) == "SUCCEEDED" or (status(it) in ENDED and it["node"].get("ignore-failure"))
        if all(map(goes_on, above)):
            build = {"id": str(uuid.uuid4()), "status": "IN_PROGRESS"}
            group["builds"].append(build)
            running[build["id"]] = None
            threading.Thread(target=begin, args=(batch, name, build), daemon=True).start()
        elif any(status(it) in ENDED and not goes_on(it) for it in above):
            group["builds"].append({"id": str(uuid.uuid4()), "status": "STOPPED"})
    if batch["status"] == "IN_PROGRESS" and all(status(it) in ENDED for it in groups.values()):
        failed = [it for it in groups.values() if status(it) != "SUCCEEDED" and not it["node"].get("ignore-failure")]
        batch["status"] = "FAILED" if failed else "SUCCEEDED"


def begin(batch, name, build):
    try:
        run(batch, name, build)
    except Exception as error:  # noqa: BLE001: a build that cannot begin is a fault of the service
        print(f"{name}: {error}", file=sys.stderr)
        build["status"] = "FAULT"
    running.pop(build["id"], None)


def retry(batch):
    again = {name for name, group in batch["groups"].items() if status(group) != "SUCCEEDED"}
    for _ in batch["groups"]:
        again |= {name for name, it in batch["groups"].items() if set(it["node"].get("depend-on", [])) & again}
    for name in again:
        batch["groups"][name]["builds"] = []
    batch["status"] = "IN_PROGRESS"


def listed(body):
    if config.get("refuses-list"):
        raise Refused("AccessDeniedException", "not authorized to perform: codebuild:ListBuildBatchesForProject")
    assert body["projectName"] == PROJECT and body["sortOrder"] == "DESCENDING"
    return [it["id"] for it in reversed(batches.values()) if it["status"] == body["filter"]["status"]]


OPERATIONS = {
    "BatchGetProjects": lambda body: {"projects": [config["project"]] if PROJECT in body["names"] else []},
    "ListBuildBatchesForProject": lambda body: {"ids": listed(body)},
    "StartBuildBatch": lambda body: {"buildBatch": shown(start(body))},
    "BatchGetBuildBatches": lambda body: {"buildBatches": [shown(batches[it]) for it in body["ids"] if it in batches]},
}


def stop(body):
    batch = batches[body["id"]]
    batch["status"] = "STOPPED"
    for group in batch["groups"].values():
        if not group["builds"]:
            group["builds"].append({"id": str(uuid.uuid4()), "status": "STOPPED"})
    return {"buildBatch": shown(batch)}


OPERATIONS["StopBuildBatch"] = stop


class Handler(loopback.Handler):
    def do_GET(self):
        with lock:
            state = {"batches": [shown(it) for it in batches.values()], "requests": requests}
        self.answer(200, json.dumps(state).encode())

    def do_POST(self):
        global throttled, drops
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        with lock:
            if self.path == "/_throttle":
                throttled, drops = body["times"], body["drop"]
                return self.answer(200)
            if self.path == "/_retry":
                retry(batches[body["id"]])
                return self.answer(200)
            operation = self.headers["X-Amz-Target"].removeprefix("CodeBuild_20161006.")
            requests.append({"operation": operation, "body": body})
            signed = self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 Credential=")
            typed = self.headers["Content-Type"] == "application/x-amz-json-1.1"
            try:
                if not signed or not typed:
                    raise Refused("AccessDeniedException", "not signed, or of the wrong type")
                if throttled:
                    throttled -= 1
                    if drops:
                        return self.connection.close()
                    raise Refused("ThrottlingException", "Rate exceeded")
                answer = OPERATIONS[operation](body)
            except Refused as refused:
                return self.answer(400, json.dumps(refused.body).encode())
        return self.answer(200, json.dumps(answer).encode())


def leave(*_):
    for process in list(running.values()):
        if process:
            end(process, signal.SIGKILL)
    os._exit(0)


signal.signal(signal.SIGTERM, leave)
threading.Thread(target=schedule, daemon=True).start()
loopback.serve(Handler, os.path.join(directory, "port"))
