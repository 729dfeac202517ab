#!/usr/bin/env python3
"""A git server and a bucket on loopback that fail. Writes its port to PORT_FILE, and each request to REQUESTS.

usage: upstream.py PORT_FILE REQUESTS DIRECTORY FAILURES

Serves the git repositories of DIRECTORY below /git/, and S3 objects (in memory) below /bucket/. The first FAILURES
requests of git and writes to the bucket are refused as a server refuses a client that has no access, which neither git
nor the S3 client retries. If FAILURES is `index`, only the first two requests for `index.json` that are not HEAD are
refused, but a write among them is executed, as if its response were lost.
"""

import sys
import threading

sys.dont_write_bytecode = True
import loopback
from git_backend import answer_git

PORT_FILE, REQUESTS, DIRECTORY, FAILURES = sys.argv[1:]
objects, lock, left = {}, threading.Lock(), [2 if FAILURES == "index" else int(FAILURES)]


class Answers(loopback.Handler):
    protocol_version = "HTTP/1.1"

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with lock:
            counts = self.command == "PUT" or self.path.startswith("/git/")
            if FAILURES == "index":
                counts = self.path.endswith("/index.json") and self.command != "HEAD"
                if counts and self.command == "PUT":
                    objects.setdefault(self.path, body)
            refused = counts and left[0] > 0
            left[0] -= counts
            with open(REQUESTS, "a", encoding="utf-8") as requests:
                print(self.command, self.path, "refused" if refused else "", file=requests)
        path, _, query = self.path.partition("?")
        if path.startswith("/git/"):
            self.answer(404) if refused else answer_git(self, DIRECTORY, path.removeprefix("/git"), query, body)
        elif refused:
            self.answer(403, b"<Error><Code>AccessDenied</Code><Message>refused</Message></Error>")
        else:
            self.bucket(path, body)

    def bucket(self, path, body):
        if self.command == "PUT":
            if self.headers.get("If-None-Match") and path in objects:
                return self.answer(412)
            objects[path] = body
            return self.answer(200, ETag='"1"')
        if path not in objects:
            return self.answer(404)
        self.answer(200, objects[path], ETag='"1"', Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request


loopback.serve(Answers, PORT_FILE)
