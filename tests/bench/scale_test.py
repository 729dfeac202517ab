"""Checks the simulation of bench/scale: what every queue obeys, and that docs/scale.md has what it prints."""

import importlib.machinery
import importlib.util
import random
import sys
import unittest
from pathlib import Path
from unittest import mock

TOP = Path(__file__).resolve().parent.parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(TOP / "bench"))
from queueing import Job, Simulation, codebuild_pool, peak, quantile  # noqa: E402


def load_scale():
    loader = importlib.machinery.SourceFileLoader("scale", str(TOP / "bench/scale"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("scale", loader))
    # dataclasses look their module up.
    sys.modules["scale"] = module
    loader.exec_module(module)
    return module


SCALE = load_scale()


def random_jobs(seed, number, rate, seconds, changes=0):
    """Arrivals by Poisson, with exponential durations."""
    source, at, jobs = random.Random(seed), 0.0, []
    for _ in range(number):
        at += source.expovariate(rate)
        change = source.randrange(changes) if changes else None
        jobs.append(Job(at, source.expovariate(1 / seconds), "p", "x", f"project {source.randrange(3)}", change))
    return jobs


def cases():
    """Simulations with all limits, busy and idle."""
    for seed in range(20):
        for machines in (1, 4, 30):
            for changes, limit, queue_timeout in ((0, None, 1e9), (40, None, 60.0), (0, 5, 1e9), (40, 3, 20.0)):
                jobs = random_jobs(seed, 400, 0.5, 15.0, changes)
                yield Simulation({"p": codebuild_pool(machines, 2, queue_timeout)}, limit).run(jobs)


class Queues(unittest.TestCase):
    def test_every_job_ends_once(self):
        seen = set()
        for sim in cases():
            ends = sim.ends()
            seen |= set(ends)
            self.assertEqual(sum(ends.values()), 400)
            self.assertEqual((sim.present, sim.pools["p"].running, len(sim.pools["p"].queue)), (0, 0, 0), "nothing is left")
            for job in sim.jobs:
                self.assertGreaterEqual(job.ends, job.arrives)
                self.assertEqual(job.end == "finished", job.starts is not None and job.ends == job.starts + job.seconds)
                self.assertLessEqual(job.ran(), job.seconds + 1e-6)
        self.assertEqual(seen, {"finished", "superseded", "rejected", "timed-out"}, "the cases have all ends")

    def test_littles_law(self):
        """The average number of jobs is their rate times their average time, however they end."""
        for sim in cases():
            times = sum(job.ends - job.arrives for job in sim.jobs)
            self.assertAlmostEqual(sim.area, times, delta=1e-6 * times)
            pool = sim.pools["p"]
            self.assertAlmostEqual(pool.busy, sum(job.ran() for job in sim.jobs), delta=1e-6 * pool.busy)

    def test_no_limit_is_exceeded(self):
        for sim in cases():
            pool = sim.pools["p"]
            self.assertLessEqual(sim.most_running, pool.machines)
            self.assertLessEqual(pool.longest_queue, pool.queue_limit)
            events = [(job.starts, 1) for job in sim.jobs if job.starts is not None]
            events += [(job.ends, -1) for job in sim.jobs if job.starts is not None]
            running = 0
            for _, step in sorted(events, key=lambda event: (event[0], event[1])):
                running += step
                self.assertLessEqual(running, pool.machines)
            for job in sim.jobs:
                self.assertLessEqual(job.waited(), pool.queue_timeout + 1e-6)

    def test_no_machine_is_idle_while_a_job_waits(self):
        for sim in cases():
            pool = sim.pools["p"]
            for job in sim.jobs:
                if job.starts is not None and job.waited() > 0:
                    others = [it for it in sim.jobs if it.starts is not None and it.starts <= job.arrives < it.ends]
                    self.assertGreaterEqual(len(others), pool.machines)

    def test_the_formula_of_erlang(self):
        """Without other limits, the part of the jobs that wait is that of M/M/c."""
        machines, load = 5, 4.0
        blocked = 1.0
        for number in range(1, machines + 1):
            blocked = load * blocked / (number + load * blocked)
        expected = blocked / (1 - load / machines * (1 - blocked))
        sim = Simulation({"p": codebuild_pool(machines, 10**9, 1e12)}).run(random_jobs(1, 60_000, load / 10.0, 10.0))
        waited = sum(1 for job in sim.jobs if job.waited() > 0) / len(sim.jobs)
        self.assertAlmostEqual(waited, expected, delta=0.03)

    def test_a_newer_job_of_a_change_stops_the_older_one(self):
        jobs = [Job(0, 100, "p", "x", change=1), Job(1, 100, "p", "x"), Job(2, 100, "p", "x", change=2)]
        jobs += [Job(3, 10, "p", "x", change=2), Job(5, 10, "p", "x", change=1)]
        sim = Simulation({"p": codebuild_pool(1)}).run(jobs)
        self.assertEqual([job.end for job in sim.jobs], ["superseded", "finished", "superseded", "finished", "finished"])
        self.assertEqual([job.ends for job in sim.jobs], [5, 105, 3, 115, 125])

    def test_a_finished_job_causes_others(self):
        after = lambda job: [Job(job.ends, 2, "q", "post")] if job.pool == "p" else []
        sim = Simulation({"p": codebuild_pool(1), "q": codebuild_pool(1)}, after=after).run([Job(0, 5, "p", "x"), Job(0, 5, "p", "x")])
        self.assertEqual([(job.kind, job.ends) for job in sim.jobs], [("x", 5), ("x", 10), ("post", 7), ("post", 12)])

    def test_the_arithmetic(self):
        self.assertEqual([quantile([1, 2, 3, 4], part) for part in (0.25, 0.5, 0.95, 1)], [1, 2, 4, 4])
        self.assertEqual(quantile([], 0.5), 0.0)
        # 120 of something, spread over two minutes; and 60 in one second of the first of them.
        long, short = Job(0, 120, "p", "x"), Job(10, 1, "p", "y")
        Simulation({"p": codebuild_pool(2)}).run([long, short])
        self.assertAlmostEqual(peak([long], lambda job: 120), 1.0)
        self.assertAlmostEqual(peak([long, short], lambda job: 120 if job is long else 60), 2.0)


class Scale(unittest.TestCase):
    def test_the_same_seed_makes_the_same_day(self):
        days = [SCALE.Day(seed, 300, 20).jobs for seed in (7, 7, 8)]
        self.assertEqual(days[0], days[1])
        self.assertNotEqual(days[0], days[2])

    def test_a_larger_quota_never_loses_more(self):
        day = SCALE.Day(3, 600, 20)
        lost = []
        for quota in (2, 5, 10, 20, 40):
            sim = day.simulate(quota)
            lost.append(sim.ends()["rejected"] + sim.ends()["timed-out"])
            self.assertAlmostEqual(sim.area, sum(job.ends - job.arrives for job in sim.jobs), delta=1e-6 * sim.area)
        self.assertEqual(lost, sorted(lost, reverse=True))
        self.assertEqual(lost[-1], 0)

    def test_every_finished_pull_request_is_posted(self):
        sim = SCALE.Day(3, 600, 20).simulate(30)
        finished = sum(1 for job in sim.jobs if job.change is not None and job.end == "finished")
        self.assertEqual(sum(1 for job in sim.jobs if job.kind == "post"), finished)

    def test_the_needed_quota_is_the_smallest(self):
        day = SCALE.Day(3, 600, 20)
        quota = SCALE.needed(day)
        good = lambda sim: not sim.ends()["rejected"] and quantile(sim.waits("large"), 0.95) <= 60
        self.assertTrue(good(day.simulate(quota)))
        self.assertFalse(good(day.simulate(quota - 10)))

    def test_a_day_of_any_size_has_tables(self):
        for seed in range(8):
            self.assertIn("| machines: large |", SCALE.render(1, 1, seed))
        with mock.patch.object(SCALE, "is_enough", lambda quota: quota >= 12_345):
            self.assertEqual(SCALE.needed(mock.Mock(simulate=lambda quota: quota)), 12_350, "no quota is too large")

    def test_the_layers_share_all_work(self):
        parts = SCALE.zipf(200)
        self.assertAlmostEqual(sum(parts), 1.0)
        self.assertEqual(parts, sorted(parts, reverse=True))
        self.assertAlmostEqual(sum(share for share, _ in SCALE.MODEL.values()), 1.0)

    def test_what_is_measured_is_in_the_documentation(self):
        page = (TOP / "docs/performance.md").read_text()
        for seconds in ("| 15.3 |", "| 181.7 |", "| 660.9 |", "| 1381.2 |"):
            self.assertIn(seconds, page)
        self.assertIn("48.4 MiB in 19 requests", page)
        self.assertIn("| publish | slow | `build-agent cache publish` | 5.02 | 1.0 | 1.84 | 22 | 11.67 |", page)

    def test_the_page_has_what_the_script_prints(self):
        page = SCALE.PAGE.read_text()
        self.assertEqual(page.split(SCALE.BEGIN)[1].split(SCALE.END)[0], SCALE.render(10_000, 200, 1), "bench/scale --write")


if __name__ == "__main__":
    unittest.main()
