"""Runs yocto-check-layer unmodified, and tells the agent what unittest itself counted.

The agent starts this program before the script: `channel` is a socket to the agent. No other process has it: it
is closed when a program is started, and in processes that only fork. So what a layer prints cannot get into it.
`sentinel` is a line that nobody else knows: what is printed behind it was printed by processes left behind.
"""

import ctypes
import json
import logging
import os
import runpy
import sys
import traceback
import unittest

PR_SET_DUMPABLE = 4


def set_dumpable(value):
    """Without it, other processes of this user can neither read this one's memory nor take its sockets."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, value, 0, 0, 0)
    except (AttributeError, OSError):
        pass


def tell(what):
    channel.sendall((json.dumps(what) + "\n").encode())


def in_child():
    global sentinel
    sentinel = ""
    channel.close()
    set_dumpable(1)


class Summary(logging.Handler):
    """Keeps what the tool itself logs from its summary on, and not what others print."""

    def __init__(self):
        super().__init__()
        self.lines = []
        self.begun = False

    def emit(self, record):
        message = record.getMessage()
        if message == "Summary of results:":
            self.begun = True
        elif self.begun and len(self.lines) < 100:
            self.lines.append(message)


def ids(tests):
    """unittest keeps a test, or a test and its text. A test is named once, whatever its subtests do."""
    found = [(entry[0] if isinstance(entry, tuple) else entry).id() for entry in tests]
    return sorted({id if id.startswith(("setUp", "tearDown")) else id.split(" ")[0] for id in found})


def run_and_tell(self, test):
    result = plain_run(self, test)
    kinds = ["failures", "errors", "skipped", "expectedFailures", "unexpectedSuccesses", "successes"]
    cases = {kind: ids(getattr(result, kind, [])) for kind in kinds}
    tell({"ran": result.testsRun, "successful": bool(result.wasSuccessful()), **cases})
    return result


def run(script):
    """Runs it to its end; its exit status."""
    try:
        runpy.run_path(script, run_name="__main__")
        return 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
    except Exception:
        traceback.print_exc()
    return 1


set_dumpable(0)
os.register_at_fork(after_in_child=in_child)
null = os.open(os.devnull, os.O_RDWR)
os.dup2(null, 0)
os.close(null)

plain_run = unittest.TextTestRunner.run
unittest.TextTestRunner.run = run_and_tell
summary = Summary()
logging.getLogger("yocto-check-layer").addHandler(summary)

sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(os.path.realpath(sys.argv[0]))
own = os.getpid()
status = run(sys.argv[0])
if os.getpid() == own:
    tell({"status": status, "unittest": "oeqa.utils.commands" in sys.modules, "summary": summary.lines})
    print(sentinel, flush=True)
sys.exit(status)
