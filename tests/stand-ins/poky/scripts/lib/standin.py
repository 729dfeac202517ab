"""What all stand-in tools have in common: see the README beside the repository's original."""

import os
import resource
import signal
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def say(text):
    """Prints to standard error without buffering, like the real tools' loggers."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def behaviour(tool):
    """Returns the words for this tool in the file `behaviour`; the last line counts."""
    path = os.path.join(TOP, "behaviour")
    lines = open(path, encoding="utf-8").read().splitlines() if os.path.exists(path) else []
    words = [line.split() for line in lines if line.split()[:1] == [tool]]
    return words[-1][1:] if words else ["pass"]


def configured(variable):
    """The value of a variable in the configuration, as far as a stand-in understands it."""
    value = ""
    for name in ["local.conf", "site.conf"]:
        path = os.path.join(os.environ["BUILDDIR"], "conf", name)
        for line in open(path, encoding="utf-8") if os.path.exists(path) else []:
            if line.split()[:1] == [variable]:
                value = line.split('"')[1]
    return value


def begin(tool):
    """Executes the actions that all tools have, and returns the words for the tool itself."""
    words = behaviour(tool)
    act = ACTS.get(words[0])
    if act is None:
        return words
    act(*words[1:])
    return ["pass"]


def step():
    """Called between two steps of a tool's work."""
    time.sleep(step.seconds)


step.seconds = 0


def act_say(*words):
    say(" ".join(words))


def act_environment():
    for name, value in sorted(os.environ.items()):
        say(f"environment {name}={value}")


def act_bytes():
    os.write(2, b"caf\xe9 \xff\xfe\x00 \x1b[31mred\x1b[0m \xf0\x9f\x9a\n")
    os.write(2, b"INFO: a line that no end follows \xc3")
    os.write(2, b"\n")


def act_flood(mebibytes):
    line = b"NOTE: the same line again and again, as a world build has it 0123456789\n"
    block = line * (1024 * 1024 // len(line))
    for _ in range(int(mebibytes)):
        os.write(1, block)
    act_endless(8)


def act_endless(mebibytes):
    """Prints one line of this size."""
    for _ in range(int(mebibytes)):
        os.write(1, b"x" * 1024 * 1024)
    os.write(1, b"\n")


def act_slow(milliseconds):
    step.seconds = int(milliseconds) / 1000


def act_daemon():
    """Starts a daemon like BitBake's server: two forks and its own session; this one also keeps the pipes open."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            lock = os.path.join(os.environ.get("BUILDDIR", "/nonexistent"), "bitbake.lock")
            if os.path.isdir(os.path.dirname(lock)):
                with open(lock, "w", encoding="utf-8") as file:
                    file.write(f"{os.getpid()}\n")
            time.sleep(600)
        os._exit(0)
    os.wait()


def act_daemons(number):
    """Starts this many daemons: some keep the pipes open, some ignore SIGTERM, some change environment and name."""
    with open(os.path.join(os.environ["BUILDDIR"], "pids"), "a", encoding="utf-8") as pids:
        for index in range(int(number)):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    pids.write(f"{os.getpid()}\n")
                    pids.flush()
                    if index & 1:
                        null = os.open(os.devnull, os.O_RDWR)
                        for stream in range(3):
                            os.dup2(null, stream)
                    if index & 2:
                        signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    if index & 4:
                        os.execve("/bin/sleep", ["kworker", "600"], {})
                    time.sleep(600)
                os._exit(0)
            os.wait()


def act_forker(width, then="pass"):
    """Starts this many chains of processes that fork and exit forever, in new sessions, without an environment."""
    program = os.path.join(TOP, "scripts", "lib", "forker.py")
    beat = os.path.join(os.environ["BUILDDIR"], "beat")
    if os.fork() == 0:
        os.execve(sys.executable, ["python3", program, beat, width], {})
    while not os.path.exists(beat):
        time.sleep(0.01)
    if then == "hang":
        begin.hang()


def act_deep(depth):
    """Makes a tree in the build directory that exceeds the path length and the limit of open files."""
    here = os.open(os.environ["BUILDDIR"], os.O_RDONLY)
    for _ in range(int(depth)):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def act_started():
    """Prints forever that tasks start; none of them ends."""
    number = 0
    while True:
        lines = [f"NOTE: recipe x{number + index}-1.0-r0: task do_y: Started\n" for index in range(1000)]
        number += len(lines)
        os.write(1, "".join(lines).encode())


def act_server():
    """Starts a server like BitBake's after the end of its client: its own session, a clean environment."""
    lock = os.path.join(os.environ["BUILDDIR"], "bitbake.lock")
    program = os.path.join(TOP, "bitbake", "bin", "bitbake-server")
    if os.fork() == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        with open(lock, "w", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
        os.execve(sys.executable, ["python3", program, "decafbad", lock], {"PATH": "/usr/bin:/bin"})
    say("hanging")
    signal.pause()


def act_spy():
    """Tries to read the agent's environment and memory, as other code of the same user may try."""
    agent = os.getppid()
    for name in ["environ", "mem", "maps"]:
        try:
            with open(f"/proc/{agent}/{name}", "rb") as file:
                file.read(1)
            say(f"spy {name}: read")
        except OSError as error:
            say(f"spy {name}: refused ({error.strerror})")


def act_hunt(*roots):
    """Searches everything that layer code can read for canaries: processes, abstract sockets, files."""
    word = b"canary-" + b"of-the-agent"

    def look(path):
        try:
            with open(path, "rb") as file:
                while block := file.read(1024 * 1024):
                    if word in block:
                        say(f"hunt found {path}")
                        return
        except OSError:
            pass

    for name, value in os.environ.items():
        if word.decode() in value:
            say(f"hunt found variable {name}")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ["environ", "cmdline", "comm", "maps", "mountinfo", "cgroup"]:
            look(f"/proc/{pid}/{name}")
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                link = f"/proc/{pid}/fd/{fd}"
                if int(pid) != os.getpid() and os.path.isfile(link):
                    look(link)
        except OSError:
            pass
    for root in roots:
        for directory, _, names in os.walk(root):
            for name in names:
                path = os.path.join(directory, name)
                if os.path.isfile(path):
                    look(path)
    say("hunt is over")


def act_descriptors():
    links = []
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            links.append(f"{fd}={os.readlink(f'/proc/self/fd/{fd}')}")
        except OSError:
            pass  # that of the directory
    say(f"descriptors {' '.join(links)}")


def act_file(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            say(f"file: {line.rstrip()}")


def act_outside(*paths):
    for path in paths:
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write("\nwritten by layer code\n")
            say(f"outside {path}: written")
        except OSError as error:
            say(f"outside {path}: refused ({error.strerror})")


def act_crash():
    raise RuntimeError("the stand-in crashed because it was told to")


def act_memory():
    limit = 256 * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    hoard = []
    while True:
        hoard.append(bytearray(16 * 1024 * 1024))


def act_kill():
    say("the end comes")
    os.kill(os.getpid(), signal.SIGKILL)


def act_hang():
    say("hanging")
    while True:
        time.sleep(600)


begin.hang = act_hang


def act_stubborn():
    signal.signal(signal.SIGINT, lambda *_: say("SIGINT is ignored"))
    signal.signal(signal.SIGTERM, lambda *_: say("SIGTERM is ignored"))
    act_hang()


ACTS = {
    "pass": lambda: None,
    "say": act_say,
    "environment": act_environment,
    "hunt": act_hunt,
    "bytes": act_bytes,
    "flood": act_flood,
    "endless": act_endless,
    "slow": act_slow,
    "daemon": act_daemon,
    "server": act_server,
    "daemons": act_daemons,
    "forker": act_forker,
    "deep": act_deep,
    "started": act_started,
    "spy": act_spy,
    "descriptors": act_descriptors,
    "file": act_file,
    "outside": act_outside,
    "crash": act_crash,
    "memory": act_memory,
    "kill": act_kill,
    "hang": act_hang,
    "stubborn": act_stubborn,
}
