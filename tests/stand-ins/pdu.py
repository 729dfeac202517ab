#!/usr/bin/env python3
"""Stand-in for a board behind a power switch on the network, as labgrid's driver `rest` controls it.

usage: pdu.py PORT LOG STORAGE KERNEL SERIAL SSH

GET /relay/0/value answers 0 or 1. PUT switches the power: 1 starts a guest of QEMU with the kernel and the file STORAGE
as its initial file system, 0 kills it. SERIAL and SSH are ports of loopback: the serial console, and the guest's ssh.
LOG gets a line for each change.
"""

import ctypes
import http.server
import signal
import subprocess
import sys

PORT, LOG, STORAGE, KERNEL, SERIAL, SSH = sys.argv[1:]
PR_SET_PDEATHSIG = 1


class Power:
    def __init__(self):
        self.guest = None

    def is_on(self):
        return self.guest is not None

    def switch(self, on):
        if on and not self.is_on():
            self.guest = subprocess.Popen(guest(), stdin=subprocess.DEVNULL, preexec_fn=end_with_parent)
        elif not on and self.is_on():
            self.guest.kill()
            self.guest.wait()
            self.guest = None
        with open(LOG, "a") as log:
            log.write("on\n" if on else "off\n")


def end_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def guest():
    return [
        "qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-m", "256",
        "-display", "none", "-monitor", "none", "-no-reboot",
        "-kernel", KERNEL, "-initrd", STORAGE, "-append", "console=ttyS0 ip=dhcp panic=1",
        "-serial", f"tcp:127.0.0.1:{SERIAL},server=on,wait=off",
        "-netdev", f"user,id=net0,hostfwd=tcp:127.0.0.1:{SSH}-:22", "-device", "virtio-net-pci,netdev=net0",
        "-object", "rng-random,filename=/dev/urandom,id=rng0", "-device", "virtio-rng-pci,rng=rng0",
    ]


class Handler(http.server.BaseHTTPRequestHandler):
    power = Power()

    def answer(self, text):
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        self.answer("1" if self.power.is_on() else "0")

    def do_PUT(self):
        value = self.rfile.read(int(self.headers["Content-Length"]))
        self.power.switch(value == b"1")
        self.answer("")

    def log_message(self, *_):
        pass


def end(*_):
    if Handler.power.guest:
        Handler.power.guest.kill()
    sys.exit(0)


signal.signal(signal.SIGTERM, end)
# One thread: a guest ends with the thread that started it.
http.server.HTTPServer(("127.0.0.1", int(PORT)), Handler).serve_forever()
