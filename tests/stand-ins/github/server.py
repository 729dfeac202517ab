#!/usr/bin/env python3
"""The parts of GitHub's REST API that the agent uses, on loopback, with a state, permissions and faults.

usage: server.py DIRECTORY

Reads DIRECTORY/config.json, writes its port to DIRECTORY/port, and each exchange as a line of DIRECTORY/exchanges.jsonl.

config.json: `repository`; `commits`, SHA to parents; `pulls`: number, sha, owner, branch, files; `tokens`, token to `login`,
`type` and `permissions`; `app`: id, permissions, public_key (a PEM file; without it, statements are not verified).

`POST /_faults` adds faults: `method` and `path` (regular expressions), `times`, and what happens: `delay` in seconds,
`status` with `headers` and `body` instead of the answer, `drop` to close the connection. `effect: true` applies the request
first. `GET /_state` returns everything that was posted.
"""

import base64
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import loopback

directory = sys.argv[1]
with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
    config = json.load(file)
lock = threading.RLock()
faults = []
state = {"statuses": [], "check_runs": [], "comments": config.get("comments", []), "sarifs": [], "tokens": []}
APP = {"id": 12345, "slug": "tester", "node_id": "A_x", "name": "Tester"}


class Refused(Exception):
    def __init__(self, status, message, **more):
        super().__init__(message)
        self.status, self.body = status, {"message": message, **more}


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def user(login, kind="User"):
    return {"login": login, "id": 5, "node_id": "U_x", "type": kind, "site_admin": False}


def url(*parts):
    return "https://api.github.com/repos/" + "/".join([config["repository"], *map(str, parts)])


def verify_statement(token):
    signed, _, signature = token.rpartition(".")
    decode = lambda text: base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    head, claims = (json.loads(decode(part)) for part in signed.split("."))
    assert head["alg"] == "RS256", head
    app = config["app"]
    if str(claims["iss"]) != str(app["id"]):
        raise Refused(401, "Integration not found")
    seconds = time.time()
    if not claims["iat"] <= seconds < claims["exp"] <= seconds + 600:
        raise Refused(401, "'Expiration time' claim ('exp') is too far in the future")
    if app.get("public_key"):
        with tempfile.NamedTemporaryFile() as file:
            file.write(decode(signature))
            file.flush()
            command = ["openssl", "dgst", "-sha256", "-verify", app["public_key"], "-signature", file.name]
            verified = subprocess.run(command, input=signed.encode(), capture_output=True)
        if verified.returncode != 0:
            raise Refused(401, "A JSON web token could not be decoded")


def who(header):
    """The permissions of a request, its user, and the App."""
    kind, _, token = (header or "").partition(" ")
    if kind != "Bearer" or not token:
        raise Refused(401, "Requires authentication")
    for minted in state["tokens"]:
        if minted["token"] == token:
            return minted["permissions"], user("tester[bot]", "Bot"), APP
    if token in config.get("tokens", {}):
        known = config["tokens"][token]
        writes = {name: "write" for name in known["permissions"]}
        return writes, user(known["login"], known.get("type", "User")), APP if known.get("type") == "Bot" else None
    if token.count(".") == 2 and config.get("app"):
        verify_statement(token)
        return {"app": "write"}, user("tester[bot]", "Bot"), APP
    raise Refused(401, "Bad credentials")


def need(permissions, name, access="write"):
    order = ["none", "read", "write"]
    if order.index(permissions.get(name, "none")) < order.index(access):
        raise Refused(403, "Resource not accessible by integration")


def known_commit(sha):
    if sha not in config["commits"]:
        raise Refused(422, f"No commit found for SHA: {sha}")
    return sha


def check_run(raw):
    output = raw["output"]
    return {
        "id": raw["id"], "node_id": "CR_x", "head_sha": raw["head_sha"], "external_id": raw["external_id"],
        "url": url("check-runs", raw["id"]), "html_url": "https://github.com/x", "details_url": raw.get("details_url"),
        "status": raw["status"], "conclusion": raw.get("conclusion"), "started_at": raw["started_at"],
        "completed_at": raw.get("completed_at"), "name": raw["name"], "check_suite": {"id": 1}, "app": APP_ANSWER,
        "pull_requests": [],
        "output": {
            "title": output.get("title"), "summary": output.get("summary"), "text": None,
            "annotations_count": len(raw["annotations"]), "annotations_url": url("check-runs", raw["id"], "annotations"),
        },
    }


APP_ANSWER = {
    **APP, "owner": user("example"), "description": None, "external_url": "https://example.org",
    "html_url": "https://github.com/apps/tester", "created_at": now(), "updated_at": now(), "permissions": {}, "events": [],
}


def comment(raw):
    answer = {**raw, "author_association": "NONE", "node_id": "IC_x", "url": url("issues/comments", raw["id"]),
              "html_url": "https://github.com/x", "issue_url": url("issues", raw["issue"])}
    del answer["issue"]
    return answer


def pull(raw):
    head = {"label": f"{raw['owner']}:{raw['branch']}", "ref": raw["branch"], "sha": raw["sha"], "user": user(raw["owner"])}
    return {"number": raw["number"], "id": raw["number"], "state": raw.get("state", "open"), "title": "t", "head": head}


def pull_request(number):
    for known in config.get("pulls", []):
        if known["number"] == int(number):
            return known
    raise Refused(404, "Not Found")


class Api(loopback.Handler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        split = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(split.query))
        self.body = json.loads(body) if body else None
        path = split.path
        if path == "/_faults":
            with lock:
                faults.extend(self.body)
            return self.send(204, None)
        if path == "/_state":
            with lock:
                return self.send(200, state)
        fault = self.fault(path)
        time.sleep(fault.get("delay", 0))
        replaced = "status" in fault or fault.get("drop")
        status, answer = 0, None
        if not replaced or fault.get("effect"):
            status, answer = self.route(path)
            self.record(path, status, answer)
        if fault.get("drop"):
            self.close_connection = True
            self.connection.close()
        elif "status" in fault:
            self.send(fault["status"], fault.get("body", {"message": "a fault"}), fault.get("headers", {}))
        else:
            self.send(status, answer)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any

    def fault(self, path):
        with lock:
            for fault in faults:
                if fault.get("times", 1) > 0 and re.search(fault.get("method", ""), self.command) and re.search(
                    fault.get("path", ""), path
                ):
                    if fault.get("after", 0) > 0:
                        fault["after"] -= 1
                        continue
                    fault["times"] = fault.get("times", 1) - 1
                    return fault
        return {}

    def send(self, status, body, headers=None):
        data = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        try:
            self.answer(status, data, **(headers or {}))
        except OSError:
            pass

    def record(self, path, status, answer):
        line = {
            "method": self.command, "path": path, "query": self.query, "request": self.body, "status": status,
            "answer": answer,
        }
        with lock, open(os.path.join(directory, "exchanges.jsonl"), "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def route(self, path):
        try:
            with lock:
                self.permissions, self.user, self.app = who(self.headers.get("Authorization"))
                if path == "/user":
                    if self.user["type"] == "Bot":
                        raise Refused(403, "Resource not accessible by integration")
                    return 200, self.user
                if match := re.fullmatch("/app/installations/9/access_tokens", path):
                    return self.mint()
                match = re.fullmatch(r"/repos/([^/]+/[^/]+)/(.+)", path)
                if not match or match[1].lower() != config["repository"].lower():
                    raise Refused(404, "Not Found")
                for method, pattern, answer in ROUTES:
                    found = re.fullmatch(pattern, match[2])
                    if method == self.command and found:
                        return answer(self, *found.groups())
                raise Refused(404, "Not Found")
        except Refused as refused:
            return refused.status, refused.body

    def mint(self):
        need(self.permissions, "app")
        wanted = self.body["permissions"]
        for name, access in wanted.items():
            granted = config["app"]["permissions"].get(name, "none")
            if ["none", "read", "write"].index(granted) < ["none", "read", "write"].index(access):
                raise Refused(422, "The permissions requested are not granted to this installation.")
        token = f"ghs_{len(state['tokens']):036d}"
        state["tokens"].append({"token": token, "permissions": wanted, "repositories": self.body["repositories"]})
        return 201, {"token": token, "expires_at": now(), "permissions": wanted, "repository_selection": "selected"}

    def installation(self):
        need(self.permissions, "app")
        return 200, {"id": 9, "app_id": 12345, "app_slug": "tester"}

    def post_status(self, sha):
        need(self.permissions, "statuses")
        status = {
            "id": len(state["statuses"]) + 1, "node_id": "SC_x", "avatar_url": None, "url": url("statuses", sha),
            "state": self.body["state"], "context": self.body["context"], "description": self.body.get("description"),
            "target_url": self.body.get("target_url"), "created_at": now(), "updated_at": now(), "creator": self.user,
        }
        known_commit(sha)
        state["statuses"].append({**status, "sha": sha})
        return 201, status

    def statuses(self, sha):
        found = [dict(it) for it in state["statuses"] if it["sha"] == sha]
        for it in found:
            del it["sha"]
        return 200, found[::-1]

    def create_check_run(self):
        need(self.permissions, "checks")
        if not self.app:
            raise Refused(403, "You must authenticate via a GitHub App.")
        known_commit(self.body["head_sha"])
        raw = {"id": 1000 + len(state["check_runs"]), "annotations": [], "started_at": now(), "history": [], **self.body}
        state["check_runs"].append(raw)
        self.apply(raw)
        return 201, check_run(raw)

    def apply(self, raw):
        given = dict(self.body)
        output = given.pop("output", None)
        raw.update(given)
        if output is not None:
            annotations = output.pop("annotations", [])
            if len(annotations) > 50:
                annotations = annotations[:50]
            raw["annotations"].extend(annotations)
            raw["output"] = output
        if "conclusion" in given:
            raw["status"] = "completed"
            raw["completed_at"] = now()
        raw["history"].append([raw["status"], raw["output"].get("title"), len(raw["annotations"])])

    def update_check_run(self, number):
        need(self.permissions, "checks")
        for raw in state["check_runs"]:
            if raw["id"] == int(number):
                self.apply(raw)
                return 200, check_run(raw)
        raise Refused(404, "Not Found")

    def get_check_run(self, number):
        need(self.permissions, "checks", "read")
        for raw in state["check_runs"]:
            if raw["id"] == int(number):
                return 200, check_run(raw)
        raise Refused(404, "Not Found")

    def check_runs(self, sha):
        need(self.permissions, "checks", "read")
        found = [
            check_run(raw) for raw in state["check_runs"]
            if raw["head_sha"] == sha and raw["name"] == self.query.get("check_name", raw["name"])
        ]
        return 200, {"total_count": len(found), "check_runs": found[:100]}

    def comments(self, number):
        need(self.permissions, "pull_requests", "read")
        size, page = int(self.query.get("per_page", 30)), int(self.query.get("page", 1))
        found = [comment(it) for it in state["comments"] if it["issue"] == int(number)]
        return 200, found[(page - 1) * size : page * size]

    def create_comment(self, number):
        need(self.permissions, "pull_requests")
        pull_request(number)
        if len(self.body["body"]) > 65536:
            raise Refused(422, "Validation Failed", errors=[{"message": "body is too long (maximum is 65536 characters)"}])
        raw = {"id": 1 + max([it["id"] for it in state["comments"]], default=0), "issue": int(number), "body": self.body["body"],
               "user": self.user, "created_at": now(), "updated_at": now()}
        state["comments"].append(raw)
        return 201, comment(raw)

    def own_comment(self, number):
        for raw in state["comments"]:
            if raw["id"] == int(number):
                return raw
        raise Refused(404, "Not Found")

    def get_comment(self, number):
        need(self.permissions, "pull_requests", "read")
        return 200, comment(self.own_comment(number))

    def update_comment(self, number):
        need(self.permissions, "pull_requests")
        raw = self.own_comment(number)
        if raw["user"]["login"] != self.user["login"]:
            raise Refused(403, "Resource not accessible by integration")
        raw["body"], raw["updated_at"] = self.body["body"], now()
        return 200, comment(raw)

    def delete_comment(self, number):
        need(self.permissions, "pull_requests")
        raw = self.own_comment(number)
        if raw["user"]["login"] != self.user["login"]:
            raise Refused(403, "Resource not accessible by integration")
        state["comments"].remove(raw)
        return 204, None

    def pulls(self):
        need(self.permissions, "pull_requests", "read")
        owner, _, branch = self.query.get("head", ":").partition(":")
        found = [it for it in config.get("pulls", []) if (it["owner"], it["branch"]) == (owner, branch)]
        return 200, [pull(it) for it in found if it.get("state", "open") == "open"]

    def get_pull(self, number):
        need(self.permissions, "pull_requests", "read")
        return 200, pull(pull_request(number))

    def files(self, number):
        need(self.permissions, "pull_requests", "read")
        size, page = int(self.query.get("per_page", 30)), int(self.query.get("page", 1))
        return 200, pull_request(number).get("files", [])[(page - 1) * size : page * size]

    def commit(self, sha):
        if sha not in config["commits"]:
            raise Refused(404, "Not Found")
        return 200, {"sha": sha, "parents": [{"sha": it, "url": "u", "html_url": "h"} for it in config["commits"][sha]]}

    def upload(self):
        need(self.permissions, "security_events")
        known_commit(self.body["commit_sha"])
        sarif = json.loads(gzip.decompress(base64.b64decode(self.body["sarif"])))
        state["sarifs"].append({"ref": self.body["ref"], "commit_sha": self.body["commit_sha"], "sarif": sarif})
        return 202, {"id": "47177e22-5596-11eb-80a1-c1e54ef945c6", "url": url("code-scanning/sarifs/1")}

    def analyses(self):
        need(self.permissions, "security_events", "read")
        found = [
            {"ref": it["ref"], "commit_sha": it["commit_sha"],
             "category": (it["sarif"]["runs"][0].get("automationDetails") or {}).get("id", "").rstrip("/")}
            for it in state["sarifs"] if it["ref"] == self.query.get("ref", it["ref"])
        ]
        return (200, found) if found else (404, {"message": "no analysis found"})


ROUTES = [
    ("GET", "installation", Api.installation),
    ("POST", "statuses/([0-9a-f]+)", Api.post_status),
    ("GET", "commits/([0-9a-f]+)/statuses", Api.statuses),
    ("POST", "check-runs", Api.create_check_run),
    ("PATCH", "check-runs/([0-9]+)", Api.update_check_run),
    ("GET", "check-runs/([0-9]+)", Api.get_check_run),
    ("GET", "commits/([0-9a-f]+)/check-runs", Api.check_runs),
    ("GET", "issues/([0-9]+)/comments", Api.comments),
    ("POST", "issues/([0-9]+)/comments", Api.create_comment),
    ("GET", "issues/comments/([0-9]+)", Api.get_comment),
    ("PATCH", "issues/comments/([0-9]+)", Api.update_comment),
    ("DELETE", "issues/comments/([0-9]+)", Api.delete_comment),
    ("GET", "pulls", Api.pulls),
    ("GET", "pulls/([0-9]+)", Api.get_pull),
    ("GET", "pulls/([0-9]+)/files", Api.files),
    ("GET", "git/commits/([0-9a-f]+)", Api.commit),
    ("POST", "code-scanning/sarifs", Api.upload),
    ("GET", "code-scanning/analyses", Api.analyses),
]

loopback.serve(Api, os.path.join(directory, "port"))
