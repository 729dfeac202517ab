#!/usr/bin/env python3
"""Packs a small Linux system for QEMU: Debian's cloud kernel, busybox and dropbear.

usage: initrd.py PACKAGES TARGET [MODE]

PACKAGES is a directory into which the packages linux-image-*-cloud-amd64, busybox-static and dropbear-bin are unpacked
(dpkg -x), `/` if they are installed. TARGET gets `vmlinuz` and `initrd.gz`. Root logs in by ssh and on the second serial
console, without a password. MODE is for tests of guests that do not work: see `init`.
"""

import glob
import gzip
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
MODULES = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "failover", "net_failover", "virtio_net"]


class Archive:
    """A cpio archive in the format of the kernel."""

    def __init__(self):
        self.data = bytearray()
        self.number = 0
        self.directories = set()

    def add(self, name, mode, content=b""):
        self.number += 1
        name = name.encode() + b"\0"
        fields = [self.number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0]
        self.data += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        self.data += bytes(-len(self.data) % 4) + content
        self.data += bytes(-len(self.data) % 4)

    def parents(self, name):
        parts = name.split("/")[:-1]
        for index in range(1, len(parts) + 1):
            directory = "/".join(parts[:index])
            if directory not in self.directories:
                self.directories.add(directory)
                self.add(directory, 0o40755)

    def file(self, name, content, mode=0o100755):
        self.parents(name)
        self.add(name, mode, content)

    def copy(self, path, name):
        with open(path, "rb") as file:
            self.file(name, file.read())

    def finish(self, path):
        self.add("TRAILER!!!", 0)
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(self.data)


def first(*patterns):
    for pattern in patterns:
        found = sorted(glob.glob(pattern))
        if found:
            return found[-1]
    sys.exit("initrd.py: there is no %s" % " and no ".join(patterns))


def libraries(program, packages):
    """The libraries of a program, those of the packages before those of this machine."""
    directories = [os.path.join(packages, part, "x86_64-linux-gnu") for part in ["usr/lib", "lib"]]
    environment = {"LD_LIBRARY_PATH": ":".join(directories), "PATH": "/usr/bin:/bin"}
    said = subprocess.run(["ldd", program], env=environment, stdout=subprocess.PIPE, check=True).stdout.decode()
    return re.findall(r"(/\S+) \(0x", said)


def main():
    packages, target = map(os.path.abspath, sys.argv[1:3])
    kernel = first(packages + "/boot/vmlinuz-*-cloud-amd64")
    version = os.path.basename(kernel)[len("vmlinuz-"):]
    busybox = first(packages + "/bin/busybox", packages + "/usr/bin/busybox")
    dropbear = first(packages + "/usr/sbin/dropbear")
    archive = Archive()
    archive.copy(busybox, "bin/busybox")
    archive.copy(dropbear, "sbin/dropbear")
    for library in libraries(dropbear, packages):
        archive.copy(library, library.lstrip("/") if "ld-linux" in library else "lib/" + os.path.basename(library))
    for module in MODULES:
        # What is not there is part of the kernel.
        for path in glob.glob(f"{packages}/lib/modules/{version}/kernel/**/{module}.ko", recursive=True):
            archive.copy(path, f"modules/{module}.ko")
    archive.file("modules/order", ("\n".join(MODULES) + "\n").encode())
    for name in ["init", "ptest-runner"]:
        archive.copy(os.path.join(HERE, name), "init" if name == "init" else "usr/bin/ptest-runner")
    for directory in ["proc", "sys", "dev", "tmp", "root", "run", "usr/lib", "etc/dropbear", "var/log"]:
        archive.parents(directory + "/x")
    archive.file("etc/passwd", b"root::0:0:root:/root:/bin/sh\n", 0o100644)
    archive.file("etc/mode", "".join(sys.argv[3:]).encode() + b"\n", 0o100644)
    archive.file("etc/shells", b"/bin/sh\n", 0o100644)
    archive.file("etc/profile", b"export PS1='root@guest:~# '\n", 0o100644)
    os.makedirs(target, exist_ok=True)
    shutil.copyfile(kernel, os.path.join(target, "vmlinuz"))
    archive.finish(os.path.join(target, "initrd.gz"))


main()
