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
    queue_timeout: float  # seconds
    queue: deque = field(default_factory=deque)
    running: int = 0
    longest_queue: int = 0
    busy: float = 0.0  # seconds of all machines


def codebuild_pool(machines, queue_factor=5, queue_timeout=480 * 60):
    """A compute type of CodeBuild: the queue has five times as many places as there are machines."""
    return Pool(machines, queue_factor * machines, queue_timeout)


class Simulation:
    """Runs jobs to their end. `after` makes the jobs that a finished job causes."""

    def __init__(self, pools, project_limit=None, after=lambda job: ()):
        self.pools, self.project_limit, self.after = pools, project_limit, after
        self.jobs, self.in_project, self.newest = [], Counter(), {}
        self.events, self.order = [], itertools.count()
        self.now = self.area = 0.0  # area: the integral of `present`, the number of jobs in the system, over time
        self.present = self.most_running = 0

    def run(self, jobs):
        for job in jobs:
            self.at(job.arrives, "arrive", job)
        while self.events:
            time, _, handler, job = heapq.heappop(self.events)
            self.area += self.present * (time - self.now)
            self.now = time
            getattr(self, handler)(job)
        return self

    def at(self, time, handler, job):
        heapq.heappush(self.events, (time, next(self.order), handler, job))

    def arrive(self, job):
        self.jobs.append(job)
        pool = self.pools[job.pool]
        if job.change is not None:
            older = self.newest.get(job.change)
            if older is not None and older.end is None:
                self.leave(older, "superseded")
            self.newest[job.change] = job
        full = self.project_limit is not None and self.in_project[job.project] >= self.project_limit
        waits = pool.running >= pool.machines
        if full or (waits and len(pool.queue) >= pool.queue_limit):
            job.ends, job.end = self.now, "rejected"
            return
        self.present += 1
        self.in_project[job.project] += 1
        if waits:
            pool.queue.append(job)
            pool.longest_queue = max(pool.longest_queue, len(pool.queue))
            self.at(self.now + pool.queue_timeout, "time_out", job)
        else:
            self.start(job)

    def start(self, job):
        pool = self.pools[job.pool]
        pool.running += 1
        self.most_running = max(self.most_running, pool.running)
        job.starts = self.now
        self.at(self.now + job.seconds, "finish", job)

    def finish(self, job):
        if job.end is None:
            self.leave(job, "finished")
            for caused in self.after(job):
                self.at(self.now, "arrive", caused)

    def time_out(self, job):
        if job.starts is None and job.end is None:
            self.leave(job, "timed-out")

    def leave(self, job, end):
        pool = self.pools[job.pool]
        job.ends, job.end = self.now, end
        self.present -= 1
        self.in_project[job.project] -= 1
        if job.starts is None:
            pool.queue.remove(job)
            return
        pool.running -= 1
        pool.busy += job.ran()
        while pool.queue and pool.running < pool.machines:
            self.start(pool.queue.popleft())

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
