#!/usr/bin/env python3
"""A stand-in for a git server with Git LFS, on loopback: git over http by `git http-backend`, and the two parts of the
LFS protocol that a download needs. Usage: git_server.py ROOT; prints its port, and serves until its input ends."""

import base64
import json
import os
import sys
import threading
from http.server import ThreadingHTTPServer

sys.dont_write_bytecode = True
import loopback
from git_backend import answer_git

ROOT = sys.argv[1]
# `USER:PASSWORD`, if the server wants one.
WANTED = os.environ.get("GIT_SERVER_CREDENTIALS", "")


class Handler(loopback.Handler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.serve(b"")

    def do_POST(self):
        self.serve(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def serve(self, body):
        wanted = "Basic " + base64.b64encode(WANTED.encode()).decode()
        if WANTED and self.headers.get("Authorization") != wanted:
            return self.answer(401, WWW_Authenticate='Basic realm="x"')
        path, _, query = self.path.partition("?")
        if path.endswith("/info/lfs/objects/batch"):
            return self.batch(path, json.loads(body))
        if "/lfs-objects/" in path:
            with open(ROOT + path, "rb") as file:
                return self.answer(200, file.read())
        answer_git(self, ROOT, path, query, body)

    def batch(self, path, request):
        objects = []
        for one in request["objects"]:
            file = path.removesuffix("/info/lfs/objects/batch") + "/lfs-objects/" + one["oid"]
            download = {"actions": {"download": {"href": "http://" + self.headers["Host"] + file}}}
            missing = {"error": {"code": 404, "message": "not found"}}
            objects.append(one | (download if os.path.exists(ROOT + file) else missing))
        text = json.dumps({"transfer": "basic", "objects": objects}).encode()
        self.answer(200, text, Content_Type="application/vnd.git-lfs+json")


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
