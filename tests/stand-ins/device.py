#!/usr/bin/env python3
"""A stand-in for a device that answers ssh. The ssh server is real; flashing and restarting only write a log.

    device.py write DIR IMAGE     the lab's program that writes an image
    device.py restart DIR         the lab's program that restarts the device
    device.py shell DIR           what the ssh server runs instead of a shell

DIR/log says who drove the device and when. Each action holds DIR/lock. If another one has it, two drive the device at
the same time, and the log has a line with VIOLATION. A file DIR/broken, DIR/no-boot or DIR/hang makes it misbehave.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
import uuid

# A lab that was killed leaves the session of its command. It notices this within a moment.
LEFT = 1.0


def log(directory, text):
    line = f"{time.time():.3f} {text}\n".encode()
    descriptor = os.open(os.path.join(directory, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(descriptor, line)
    os.close(descriptor)


def hold(directory, what):
    lock = open(os.path.join(directory, "lock"), "a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log(directory, f"VIOLATION {what}: another one drives the device")
    log(directory, f"begin {what}")
    return lock


def has(directory, name):
    return os.path.exists(os.path.join(directory, name))


def write(directory, image):
    time.sleep(LEFT)
    lock = hold(directory, f"write {image}")
    if has(directory, "broken"):
        log(directory, "end write broken")
        sys.exit("the stand-in cannot write its storage")
    time.sleep(0.1)
    with open(image, "rb") as source, open(os.path.join(directory, "storage"), "wb") as target:
        target.write(source.read())
    log(directory, "end write")
    lock.close()


def end_sessions(directory):
    """A restart ends all that runs on a device."""
    sessions = os.path.join(directory, "sessions")
    os.makedirs(sessions, exist_ok=True)
    for name in os.listdir(sessions):
        try:
            os.killpg(int(name), signal.SIGKILL)
        except (ProcessLookupError, PermissionError, ValueError):
            pass
        os.unlink(os.path.join(sessions, name))


def restart(directory):
    end_sessions(directory)
    time.sleep(0.05)
    lock = hold(directory, "restart")
    boot = "unknown" if has(directory, "no-boot") else str(uuid.uuid4())
    with open(os.path.join(directory, "boot.part"), "w") as file:
        file.write(boot + "\n")
    os.rename(os.path.join(directory, "boot.part"), os.path.join(directory, "boot"))
    log(directory, "end restart")
    lock.close()


def shell(directory):
    command = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    if "boot_id" in command:
        if has(directory, "no-boot"):
            sys.exit(255)
        with open(os.path.join(directory, "boot")) as file:
            print(file.read().strip() or "unknown")
        return
    server = os.getppid()
    lock = hold(directory, "session")
    child = subprocess.Popen(["sh", "-c", command], start_new_session=True, cwd=directory)
    session = os.path.join(directory, "sessions", str(child.pid))
    os.makedirs(os.path.dirname(session), exist_ok=True)
    open(session, "w").close()
    while child.poll() is None:
        if os.getppid() != server:
            # The connection ended.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        time.sleep(0.02)
    try:
        os.unlink(session)
    except FileNotFoundError:
        pass
    log(directory, "end session")
    lock.close()
    sys.exit(child.returncode if child.returncode >= 0 else 255)


if __name__ == "__main__":
    {"write": write, "restart": restart, "shell": shell}[sys.argv[1]](*sys.argv[2:])
