#!/usr/bin/env python3
"""Stands in for a LAVA server: the parts of its REST API v0.2 that the agent uses. Writes its port to PORT_FILE.

usage: server.py PORT_FILE DIRECTORY

`DIRECTORY/plan.json` says what it does, and may change while it runs:

    states      the states of a job, one for each time that it is read; the last one repeats
    health      the health of a job that has finished
    comment     its failure comment
    error_type  LAVA's word for the fault of an incomplete job
    junit       the results
    faults      a list of words, one for each request, until it is empty: `503`, `html`, `drop` (no answer), `lost` (it does
                what was asked, and gives no answer), `hang` (an answer after two seconds), `redirect`

It appends each request to `DIRECTORY/requests`, and writes definitions to `DIRECTORY/job-ID.yaml`.
"""

import json
import os
import re
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import loopback

DIRECTORY = sys.argv[2]
LOCK = threading.Lock()
JOBS = {}
TAKEN = [0]


def plan():
    with open(os.path.join(DIRECTORY, "plan.json"), encoding="utf-8") as file:
        return json.load(file)


class Lava(loopback.Handler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.handle_request()

    def do_POST(self):
        self.handle_request()

    def handle_request(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        with LOCK:
            with open(os.path.join(DIRECTORY, "requests"), "a", encoding="utf-8") as log:
                log.write("%s %s\n" % (self.command, self.path))
            now = plan()
            faults = now.get("faults", [])
            fault = faults[TAKEN[0]] if TAKEN[0] < len(faults) else None
            TAKEN[0] += 1
        if fault == "503":
            return self.answer(503, b"down for maintenance")
        if fault == "html":
            return self.answer(200, b"<html>a proxy's page</html>")
        if fault == "redirect":
            return self.answer(302, Location="http://127.0.0.1:1/steal")
        if fault == "hang":
            time.sleep(2)
        if fault == "drop":
            self.close_connection = True
            return None
        status, answer = self.reply(now, body)
        if fault == "lost":
            self.close_connection = True
            return None
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return self.answer(status, data)

    def reply(self, now, body):
        if self.headers.get("Authorization") != "Token secret":
            return 401, {"detail": "Invalid token."}
        path = self.path.split("?")[0]
        if path == "/api/v0.2/jobs/" and self.command == "POST":
            definition = json.loads(body)["definition"]
            if "INVALID" in definition:
                return 400, {"message": "job definition is not valid"}
            with LOCK:
                job = len(JOBS) + 1
                name = re.search(r"^job_name: *(.*)$", definition, re.M).group(1)
                JOBS[job] = {"description": name, "reads": 0, "cancelled": False}
            with open(os.path.join(DIRECTORY, "job-%d.yaml" % job), "w", encoding="utf-8") as file:
                file.write(definition)
            return 201, {"message": "job(s) successfully submitted", "job_ids": ["%d" % job]}
        if path == "/api/v0.2/jobs/":
            newest = sorted(JOBS, reverse=True)
            return 200, {"count": len(newest), "results": [self.job(now, job) for job in newest]}
        match = re.fullmatch(r"/api/v0\.2/jobs/(\d+)/(.*)", path)
        if not match or int(match.group(1)) not in JOBS:
            return 404, {"detail": "Not found."}
        job, rest = int(match.group(1)), match.group(2)
        if rest == "":
            JOBS[job]["reads"] += 1
            return 200, self.job(now, job)
        if rest == "cancel/":
            if now.get("cancel_is_get") and self.command == "POST":
                return 405, {"detail": "Method not allowed."}
            JOBS[job]["cancelled"] = True
            return 200, {"message": "Job cancel signal sent."}
        if rest == "junit/":
            return 200, now.get("junit", "").encode()
        if rest == "logs/":
            lines = ['- {"dt": "2026", "lvl": "info", "msg": "start"}', '- {"dt": "2026", "lvl": "target", "msg": "login:"}']
            return 200, "\n".join(lines).encode()
        if rest == "suites/":
            return 200, {"results": [{"id": 5, "name": "0_runtime"}, {"id": 6, "name": "lava"}]}
        if rest == "suites/6/tests/":
            metadata = "case: job\nerror_type: %s\n" % now.get("error_type", "")
            return 200, {"results": [{"id": 1, "name": "validate", "metadata": None}, {"id": 2, "name": "job", "metadata": metadata}]}
        return 404, {"detail": "Not found."}

    def job(self, now, job):
        record = JOBS[job]
        states = now.get("states", ["Finished"])
        state = states[min(max(record["reads"] - 1, 0), len(states) - 1)]
        health = now.get("health", "Complete") if state == "Finished" else "Unknown"
        if record["cancelled"]:
            state, health = "Finished", "Canceled"
        return {
            "id": job,
            "state": state,
            "health": health,
            "description": record["description"],
            "failure_comment": now.get("comment"),
            "actual_device": None if state == "Submitted" else "board-07",
        }


loopback.serve(Lava, sys.argv[1])
