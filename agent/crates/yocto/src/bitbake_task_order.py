"""Tells for each task that starts for which task it waited.

BitBake's server makes an event for each task that starts, and one for each that ends. This module numbers the tasks that
run, and adds to the event of a start `build_agent`: the number of the task, and that of the task that ended last among
those that it depends on (None if it waited for none). A dependency that does not run itself (noexec) counts as what it
waited for; one that comes from shared state as the task that took it from there. One that was there before counts for
nothing. So the whole graph, which is large, need not be sent or stored.

Nothing here may ever disturb BitBake: every exception is swallowed. The code runs with every Python that BitBake
supports, from 3.5 on.
"""


class Order:
    """Of one run of BitBake's queue."""

    def __init__(self):
        self.count = 0
        self.ends = 0
        # The tasks that run now; those of shared state have another name.
        self.numbers = {}
        # By task: when its result was there, as a count of ends, and the number of the task that made it.
        self.made = {}
        # The same for tasks of shared state, and for tasks that do not run themselves.
        self.restored = {}
        self.not_run = {}

    def start(self, name, waited):
        self.count += 1
        self.numbers[name] = self.count
        return (self.count, waited[1] if waited else None)

    def end(self, name):
        number = self.numbers.pop(name, None)
        if number is None:
            return None
        self.ends += 1
        return (self.ends, number)


def order_of(queue):
    data = queue.rqdata
    order = data.__dict__.get("build_agent_order")
    if order is None:
        order = data.build_agent_order = Order()
    return order


def last(tasks, made):
    return max((made[task] for task in tasks if task in made), default=None)


def task_started(event, task, queue):
    order = order_of(queue)
    waited = last(queue.rqdata.runtaskentries[task].depends, order.made)
    if event.noexec:
        order.not_run[task] = waited
    else:
        event.build_agent = order.start(task, waited)


def task_completed(event, task, queue):
    order = order_of(queue)
    made = order.end(task) or order.not_run.pop(task, None)
    if made:
        order.made[task] = made


def task_skipped(event, task, queue):
    order = order_of(queue)
    if event.reason == "covered" and task in order.restored:
        order.made[task] = order.restored[task]


def setscene_started(event, task, queue):
    order = order_of(queue)
    before = queue.rqexe.sqdata.sq_revdeps.get(task, ())
    event.build_agent = order.start(task + "_setscene", last(before, order.restored))


def setscene_completed(event, task, queue):
    order = order_of(queue)
    made = order.end(task + "_setscene")
    if made:
        order.restored[task] = made


def call_after(kind, function):
    """Lets the constructor of an event call a function at its end."""
    original = kind.__init__

    def __init__(self, task, stats, queue, *args, **kwargs):
        original(self, task, stats, queue, *args, **kwargs)
        try:
            function(self, task, queue)
        except Exception:
            pass

    kind.__init__ = __init__


def watch(runqueue):
    """Adds the order of tasks to the events of the module."""
    try:
        call_after(runqueue.runQueueTaskStarted, task_started)
        call_after(runqueue.runQueueTaskCompleted, task_completed)
        call_after(runqueue.runQueueTaskSkipped, task_skipped)
        call_after(runqueue.sceneQueueTaskStarted, setscene_started)
        call_after(runqueue.sceneQueueTaskCompleted, setscene_completed)
    except Exception:
        pass
