"""Tells the agent what BitBake does: JSON lines on the socket that this process got as its standard input.

BitBake stays unmodified. Its console (`bb.ui.knotty`) asks an event queue for events; `watch` puts a queue around
that one which notes each event and hands it on. The console gets exactly the events that it would get without this:
the few that only the agent wants are kept from it, because it reports events that it does not know as errors.

Nothing here may ever disturb BitBake. Every exception is swallowed, and while BitBake works the socket never blocks:
while it is full, progress is dropped, and the starts and ends of tasks wait in memory up to a limit; what is dropped
then is counted. Only after the console's end, `finish` waits up to a second for the agent to read the rest.
"""

import functools
import json
import os
import socket

# The console's own list of events lacks these. Exact names of classes.
EXTRA = (
    "bb.event.BuildStarted",
    "bb.runqueue.runQueueTaskCompleted",
    "bb.runqueue.runQueueTaskSkipped",
    "bb.runqueue.sceneQueueTaskCompleted",
)
# The last tasks of a build and of a fetch: their events are not dropped.
FOLLOWED = (":do_build", ":do_fetch")
# Variables of the configuration whose values are reported.
READ_BACK = ("BB_NUMBER_THREADS", "PARALLEL_MAKE", "BUILDSTATS_BASE")
# Characters of a text that are told; events come from layer code, too.
LONGEST_TEXT = 1000
# Bytes that wait while the agent does not read.
LONGEST_QUEUE = 4 << 20


class Channel:
    """The agent's socket. Never raises. Only `finish` waits for the agent, for a second at most."""

    def __init__(self, connection):
        connection.setblocking(False)
        self.connection = connection
        self.waiting = bytearray()
        self.dropped = 0

    def send(self, line, is_needed):
        """Sends a line; without `is_needed` only if nothing waits before it."""
        if self.connection is None:
            return
        self.flush()
        if self.waiting and not is_needed:
            return
        data = json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"
        if len(self.waiting) + len(data) > LONGEST_QUEUE:
            self.dropped += 1
            return
        if self.dropped:
            self.waiting += b'{"e":"dropped","n":%d}\n' % self.dropped
            self.dropped = 0
        self.waiting += data
        self.flush()

    def flush(self):
        while self.waiting and self.connection is not None:
            try:
                sent = self.connection.send(self.waiting)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.close()
                return
            del self.waiting[:sent]

    def close(self):
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def finish(self):
        """Sends what the agent takes within a second, and closes."""
        try:
            if self.connection is not None and (self.waiting or self.dropped):
                self.connection.settimeout(1)
                if self.dropped:
                    self.waiting += b'{"e":"dropped","n":%d}\n' % self.dropped
                self.connection.sendall(self.waiting)
        except Exception:
            pass
        self.close()


def take_stdin():
    """The socket from standard input, which becomes /dev/null as it is without this. `None` if it is no socket."""
    connection = None
    try:
        connection = socket.socket(fileno=os.dup(0))  # not inherited by programs that are started
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        channel = Channel(connection)
        # BitBake 1.46 forks its server: that must not keep the socket.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=channel.close)
        return channel
    except Exception:
        if connection is not None:
            connection.close()
        return None


def text(value):
    return None if value is None else str(value)[:LONGEST_TEXT]


def number(value):
    return int(value) if isinstance(value, (int, float)) else 0


def task_id(event):
    """Of an event of the task's own process, as the queue of tasks names it: [mc:NAME:]FILE:TASK."""
    name = str(event._fn)
    context = getattr(event, "_mc", None)
    if context not in (None, "", "default") and not name.startswith("mc:"):
        name = "mc:%s:%s" % (context, name)
    return text("%s:%s" % (name, event._task))


class Queue:
    """Stands before the console's queue of events."""

    def __init__(self, queue, channel, own, dumps_signatures):
        self._queue = queue
        self._channel = channel
        self._own = own
        self._dumps_signatures = dumps_signatures
        # Of tasks that are about to start: see bitbake_task_order.py.
        self._order = {}
        # The multiconfigs for which the log of a task was reported.
        self._logs = set()

    def __getattr__(self, name):
        return getattr(self._queue, name)

    def waitEvent(self, delay):
        event = self._queue.waitEvent(delay)
        while event is not None and self._note(event):
            event = self._queue.waitEvent(0)
        if event is None:
            self._flush()
        return event

    def getEvent(self):
        event = self._queue.getEvent()
        while event is not None and self._note(event):
            event = self._queue.getEvent()
        return event

    def _flush(self):
        try:
            self._channel.flush()
        except Exception:
            pass

    def _note(self, event):
        """Tells the agent of the event. Whether it is one that the console does not get."""
        kind = None
        try:
            kind = "%s.%s" % (type(event).__module__, type(event).__name__)
            self._tell(kind, event)
        except Exception:
            pass
        return kind in self._own

    def _tell(self, kind, event):
        send = self._channel.send
        module, _, name = kind.rpartition(".")
        if module == "bb.runqueue":
            self._queue_event(name, event)
        elif module == "bb.build":
            self._task_event(name, event)
        elif kind in ("bb.event.ParseStarted", "bb.event.CacheLoadStarted"):
            send({"e": "parse" if "Parse" in name else "cache", "n": 0, "of": number(event.total)}, False)
        elif kind in ("bb.event.ParseProgress", "bb.event.CacheLoadProgress"):
            of = number(event.total)
            send({"e": "parse" if "Parse" in name else "cache", "n": number(event.current), "of": of}, False)
        elif kind == "bb.event.BuildStarted":
            # Its name is the unexpanded BUILDNAME.
            send({"e": "build"}, True)
        elif kind == "bb.event.ParseCompleted":
            send({"e": "parsed", "cached": number(event.cached), "parsed": number(event.parsed)}, True)
        elif kind in ("bb.event.ProcessStarted", "bb.event.ProcessProgress"):
            done = number(getattr(event, "progress", 0))
            send({"e": "process", "name": text(event.processname), "n": done}, False)
        elif kind == "bb.event.ProcessFinished" and self._dumps_signatures:
            if event.processname == "Initialising tasks":
                send({"e": "signatures"}, True)

    def _queue_event(self, name, event):
        if not name.endswith(("TaskStarted", "TaskCompleted", "TaskFailed", "TaskSkipped")):
            return
        stats = event.stats
        line = {"e": "queue", "what": name[name.index("Task") + 4 :].lower(), "id": text(event.taskstring)}
        if name.startswith("sceneQueue"):
            if hasattr(stats, "setscene_total"):
                done = stats.setscene_covered + stats.setscene_notcovered
                line["scene"] = [number(done), number(stats.setscene_total)]
            else:
                line["scene"] = [number(stats.completed + stats.failed), number(stats.total)]
        else:
            line["tasks"] = [number(stats.completed), number(stats.failed), number(stats.total)]
        if name.endswith("Failed"):
            line["exit"] = number(event.exitcode)
        order = getattr(event, "build_agent", None)
        if order is not None:
            self._order[line["id"]] = order
        self._channel.send(line, name.endswith("Failed") or line["id"].endswith(FOLLOWED))

    def _task_event(self, name, event):
        if name not in ("TaskStarted", "TaskSucceeded", "TaskFailed", "TaskFailedSilent"):
            return
        line = {
            "e": "task",
            "what": {"TaskStarted": "started", "TaskSucceeded": "succeeded"}.get(name, "failed"),
            "id": task_id(event),
            "pn": text(event.pn),
            "pf": text(event._package),
            "task": text(event._task),
            "mc": None if event._mc in (None, "", "default") else text(event._mc),
        }
        if name == "TaskStarted":
            line["n"], line["after"] = self._order.pop(line["id"], (None, None))
        # The log of the first task of a multiconfig says where that builds.
        if name in ("TaskFailed", "TaskFailedSilent") or line["mc"] not in self._logs:
            self._logs.add(line["mc"])
            line["log"] = text(event.logfile)
        self._channel.send(line, True)


def read_back(params, channel):
    """Reports the values of variables when BitBake has read its configuration, before it gets its command."""
    original = params.updateFromServer

    def updateFromServer(server, *args, **kwargs):
        result = original(server, *args, **kwargs)
        try:
            values = {}
            for name in READ_BACK:
                value, error = server.runCommand(["getVariable", name])
                if not error and value is not None:
                    values[name] = text(value)
            channel.send({"e": "variables", "values": values}, True)
        except Exception:
            pass
        return result

    params.updateFromServer = updateFromServer


def watch(knotty, channel):
    """Lets the console of the module run beside the agent's channel."""
    original = knotty.main

    @functools.wraps(original)
    def main(server, eventHandler, params, *args, **kwargs):
        try:
            missing = [name for name in EXTRA if name not in knotty._evt_list]
            knotty._evt_list.extend(missing)
            dumps_signatures = bool(getattr(params.options, "dump_signatures", None))
            eventHandler = Queue(eventHandler, channel, missing, dumps_signatures)
            channel.send({"e": "hello"}, True)
            read_back(params, channel)
        except Exception:
            pass
        try:
            return original(server, eventHandler, params, *args, **kwargs)
        finally:
            channel.finish()

    knotty.main = main
