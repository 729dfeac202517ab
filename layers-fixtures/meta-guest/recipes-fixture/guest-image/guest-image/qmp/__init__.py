"""As much of QEMU's module qmp as OE-Core's tests need."""

import json
import socket


class QMPError(Exception):
    pass


class QMPConnectError(QMPError):
    pass


class QEMUMonitorProtocol:
    def __init__(self, address):
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def settimeout(self, seconds):
        self.socket.settimeout(seconds)

    def connect(self, negotiate=True):
        self.socket.connect(self.address)
        self.file = self.socket.makefile("r")
        self.file.readline()
        return self.cmd("qmp_capabilities")

    def cmd(self, name, args=None):
        self.socket.sendall(json.dumps({"execute": name, "arguments": args or {}}).encode() + b"\n")
        while True:
            line = self.file.readline()
            if not line:
                raise QMPError("QEMU has gone")
            answer = json.loads(line)
            if "event" not in answer:
                return answer

    cmd_raw = cmd

    def close(self):
        self.socket.close()
