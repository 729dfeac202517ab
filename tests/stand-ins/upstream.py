#!/usr/bin/env python3
"""A git server and a bucket on loopback that fail. Writes its port to PORT_FILE, and each request to REQUESTS.

usage: upstream.py PORT_FILE REQUESTS DIRECTORY FAILURES

Serves the git repositories of DIRECTORY below /git/, and S3 objects (in memory) below /bucket/. The first FAILURES
requests of git and writes to the bucket are refused as a server refuses a client that has no access, which neither git
nor the S3 client retries. If FAILURES is `index`, only the first two requests for `index.json` that are not HEAD are
refused, but a write among them is executed, as if its response were lost.
"""

import os
import subprocess
import sys
import threading

sys.dont_write_bytecode = True
import loopback

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
            self.answer(404) if refused else self.git(path.removeprefix("/git"), query, body)
        elif refused:
            self.answer(403, b"<Error><Code>AccessDenied</Code><Message>refused</Message></Error>")
        else:
            self.bucket(path, body)

    def git(self, path, query, body):
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": DIRECTORY,
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        ran = subprocess.run(["git", "http-backend"], env=environment, input=body, stdout=subprocess.PIPE)
        head, _, content = ran.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        self.answer(status, content, **headers)

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
