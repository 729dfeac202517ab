"""Stands in for BitBake's console: takes events until there are no more."""

# As the original it knows some events only, and takes others for errors.
_evt_list = [
    "bb.event.ParseProgress", "bb.event.ProcessFinished", "bb.build.TaskStarted", "bb.build.TaskSucceeded", "bb.build.TaskFailed",
    "bb.runqueue.runQueueTaskStarted", "bb.runqueue.runQueueTaskFailed",
]
KNOWN = tuple(_evt_list)


def main(server, eventHandler, params, tf=None):
    unknown = 0
    while True:
        event = eventHandler.waitEvent(0)
        if event is None:
            return unknown
        if f"{type(event).__module__}.{type(event).__name__}" not in KNOWN:
            print(f"ERROR: Unknown event: {event}", flush=True)
            unknown = 1
