#!/usr/bin/env python3
"""Serves GET on loopback: https with CERTIFICATE and KEY, else http. Writes its port to PORT_FILE.

usage: web.py PORT_FILE MANIFEST [CERTIFICATE KEY]
"""

import ssl
import sys

sys.dont_write_bytecode = True
import loopback


class Answers(loopback.Handler):
    def do_GET(self):
        path = self.path.split("?")[0]
        with open(sys.argv[2], "rb") as manifest:
            good = manifest.read()
        # A bucket named `bucket`, with path-style addresses.
        if path in ("/m.toml", "/bucket/m.toml"):
            self.answer(200, good, ETag='"1"', Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")
        elif path == "/broken":
            self.answer(200, good.replace(b"branch", b"brunch"))
        elif path == "/moved":
            self.answer(302, Location="/m.toml")
        elif path == "/downgraded":
            self.answer(302, Location="http://127.0.0.1:1/m.toml")
        elif path == "/round":
            self.answer(302, Location="/round")
        elif path == "/large":
            self.answer(200, b"#" * (1 << 20))
        elif path.lstrip("/").isdigit():
            self.answer(int(path.lstrip("/")))
        else:
            self.answer(404)


context = None
if len(sys.argv) > 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[3:5])
loopback.serve(Answers, sys.argv[1], context)
