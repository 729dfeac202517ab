"""Stand-in for BitBake's console: reads events until the last one."""

# Like the original, it knows only some events, and treats others as errors.
_evt_list = [
    "bb.event.ParseProgress", "bb.event.ProcessFinished", "bb.build.TaskStarted", "bb.build.TaskSucceeded", "bb.build.TaskFailed",
    "bb.runqueue.runQueueTaskStarted", "bb.runqueue.runQueueTaskFailed",
]
KNOWN = tuple(_evt_list)


def main(server, eventHandler, params, tf=None):
    params.updateFromServer(server)
    unknown = 0
    while True:
        event = eventHandler.waitEvent(0)
        if event is None:
            return unknown
        if f"{type(event).__module__}.{type(event).__name__}" not in KNOWN:
            print(f"ERROR: Unknown event: {event}", flush=True)
            unknown = 1
