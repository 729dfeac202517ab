"""Simulates machines with a limit and a queue, as CodeBuild has them for each compute type, event by event.

A job that arrives starts at once if a machine of its pool is free. Otherwise it waits, in the order of arrival, unless the
queue is full: then it is rejected. It leaves the queue when it has waited too long. A job of a project that has a limit is
rejected if the project has as many jobs, waiting or running. A newer job of the same change stops an older one.
"""

import heapq
import itertools
import math
from collections import Counter, deque
from dataclasses import dataclass, field

@dataclass
class Job:
    arrives: float
    seconds: float  # how long it runs if nothing stops it
    pool: str
    kind: str
    project: str = ""
    change: object = None  # the pull request
    starts: float = None
    ends: float = None
    end: str = None  # finished, superseded, rejected, timed-out

    def waited(self):
        """Until it started or left the queue."""
        return (self.ends if self.starts is None else self.starts) - self.arrives

    def ran(self):
        return 0.0 if self.starts is None else self.ends - self.starts


@dataclass
class Pool:
    machines: int
    queue_limit: int
    patience: float  # seconds in the queue
    queue: deque = field(default_factory=deque)
    running: int = 0
    longest_queue: int = 0
    busy: float = 0.0  # seconds of all machines


def pool(machines, queue_factor=5, patience=480 * 60):
    """A compute type of CodeBuild: the queue has five times as many places as there are machines."""
    return Pool(machines, queue_factor * machines, patience)


class Simulation:
    """Runs jobs to their end. `after` makes the jobs that a finished job causes."""

    def __init__(self, pools, project_limit=None, after=lambda job: ()):
        self.pools, self.project_limit, self.after = pools, project_limit, after
        self.jobs, self.in_project, self.of_change = [], Counter(), {}
        self.events, self.order = [], itertools.count()
        self.now = self.area = 0.0  # the area below the number of jobs in the system
        self.present = self.most_running = 0

    def run(self, jobs):
        for job in jobs:
            self.at(job.arrives, "arrive", job)
        while self.events:
            time, _, what, job = heapq.heappop(self.events)
            self.area += self.present * (time - self.now)
            self.now = time
            getattr(self, what)(job)
        return self

    def at(self, time, what, job):
        heapq.heappush(self.events, (time, next(self.order), what, job))

    def arrive(self, job):
        self.jobs.append(job)
        place = self.pools[job.pool]
        if job.change is not None:
            older = self.of_change.get(job.change)
            if older is not None and older.end is None:
                self.leave(older, "superseded")
            self.of_change[job.change] = job
        full = self.project_limit is not None and self.in_project[job.project] >= self.project_limit
        waits = place.running >= place.machines
        if full or (waits and len(place.queue) >= place.queue_limit):
            job.ends, job.end = self.now, "rejected"
            return
        self.present += 1
        self.in_project[job.project] += 1
        if waits:
            place.queue.append(job)
            place.longest_queue = max(place.longest_queue, len(place.queue))
            self.at(self.now + place.patience, "lose_patience", job)
        else:
            self.start(job)

    def start(self, job):
        place = self.pools[job.pool]
        place.running += 1
        self.most_running = max(self.most_running, place.running)
        job.starts = self.now
        self.at(self.now + job.seconds, "finish", job)

    def finish(self, job):
        if job.end is None:
            self.leave(job, "finished")
            for caused in self.after(job):
                self.at(self.now, "arrive", caused)

    def lose_patience(self, job):
        if job.starts is None and job.end is None:
            self.leave(job, "timed-out")

    def leave(self, job, end):
        place = self.pools[job.pool]
        job.ends, job.end = self.now, end
        self.present -= 1
        self.in_project[job.project] -= 1
        if job.starts is None:
            place.queue.remove(job)
            return
        place.running -= 1
        place.busy += job.ran()
        while place.queue and place.running < place.machines:
            self.start(place.queue.popleft())

    def ends(self):
        return Counter(job.end for job in self.jobs)

    def waits(self, pool):
        """How long the jobs that started had waited, sorted."""
        return sorted(job.waited() for job in self.jobs if job.pool == pool and job.starts is not None)


def quantile(values, part):
    """The smallest of the sorted values that at least `part` of them do not exceed."""
    return values[max(0, math.ceil(part * len(values) - 1e-9) - 1)] if values else 0.0


def peak(jobs, amount, step=60.0):
    """The largest sum of a minute, per second, if each job spreads its amount evenly over its time."""
    minutes = Counter()
    for job in jobs:
        seconds, total = job.ran(), amount(job)
        if not total or seconds <= 0:
            continue
        at = job.starts
        while at < job.ends:
            until = min(job.ends, (at // step + 1) * step)
            minutes[at // step] += total * (until - at) / seconds
            at = until
    return max(minutes.values(), default=0.0) / step
