#!/usr/bin/env python3
"""Stands in for AWS's server of Device Tester, as AWS documents its API. Writes its port to PORT_FILE.

usage: download.py PORT_FILE ZIP REQUESTS

It gives out ZIP to signed requests, and appends each request to the file REQUESTS.
"""

import json
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import loopback


class Downloads(loopback.Handler):
    def do_GET(self):
        authorization = self.headers.get("Authorization") or ""
        with open(sys.argv[3], "a", encoding="utf-8") as log:
            log.write("%s %s\n" % (self.path, authorization.split(",")[0]))
        if self.path == "/idt.zip":
            with open(sys.argv[2], "rb") as file:
                return self.answer(200, file.read())
        # Parameters in another order have another signature.
        if self.path != "/latestidt?HostOs=linux&TestSuiteType=GGV2":
            return self.answer(400, b'{"message": "Bad Request"}')
        if not authorization.startswith("AWS4-HMAC-SHA256 ") or "/iot-device-tester/aws4_request" not in authorization:
            return self.answer(403, b'{"message": "Missing Authentication Token"}')
        latest = {
            "Version": "4.9.4",
            "TestSuiteVersion": "GGV2Q_2.5.4",
            "DownloadURL": "http://%s/idt.zip" % self.headers["Host"],
        }
        return self.answer(200, json.dumps({"Success": True, "Message": "", "LatestBk": latest}).encode())


loopback.serve(Downloads, sys.argv[1])
