#!/usr/bin/env python3
"""A stand-in for a git server with Git LFS, on loopback: git over http by `git http-backend`, and the two parts of the
LFS protocol that a download needs. Usage: git_server.py ROOT; prints its port, and serves until its input ends."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROOT = sys.argv[1]
# `USER:PASSWORD`, if the server wants one.
WANTED = os.environ.get("GIT_SERVER_CREDENTIALS", "")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.serve(b"")

    def do_POST(self):
        self.serve(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def serve(self, body):
        wanted = "Basic " + base64.b64encode(WANTED.encode()).decode()
        if WANTED and self.headers.get("Authorization") != wanted:
            return self.reply(401, b"", [("WWW-Authenticate", 'Basic realm="x"')])
        path, _, query = self.path.partition("?")
        if path.endswith("/info/lfs/objects/batch"):
            return self.batch(path, json.loads(body))
        if "/lfs-objects/" in path:
            with open(ROOT + path, "rb") as file:
                return self.reply(200, file.read(), [])
        self.backend(path, query, body)

    def batch(self, path, request):
        top = "http://" + self.headers["Host"] + path.removesuffix("/info/lfs/objects/batch")
        objects = []
        for one in request["objects"]:
            known = os.path.exists(ROOT + path.removesuffix("/info/lfs/objects/batch") + "/lfs-objects/" + one["oid"])
            part = {"actions": {"download": {"href": top + "/lfs-objects/" + one["oid"]}}}
            missing = {"error": {"code": 404, "message": "not found"}}
            objects.append({**one, **(part if known else missing)})
        text = json.dumps({"transfer": "basic", "objects": objects}).encode()
        self.reply(200, text, [("Content-Type", "application/vnd.git-lfs+json")])

    def backend(self, path, query, body):
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": ROOT,
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        said = subprocess.run(["git", "http-backend"], input=body, env=environment, stdout=subprocess.PIPE)
        head, _, content = said.stdout.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line]
        status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
        self.reply(status, content, [(name, value) for name, value in fields if name != "Status"])

    def reply(self, status, content, fields):
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
