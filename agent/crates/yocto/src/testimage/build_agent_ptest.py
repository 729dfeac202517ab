"""Runs the ptests of an image one after another. Written by build-agent.

A ptest that is silent for too long is stopped, and the others go on. The results have OE-Core's own format
(oeqa/runtime/cases/ptest.py). What to run is in the file build_agent_ptest.plan beside this one, or in the file that
BUILD_AGENT_PTEST_PLAN names.
"""

import glob
import json
import os
import re
import select
import subprocess
import time

from oeqa.runtime.case import OERuntimeTestCase

RESULT = {"PASSED": re.compile(r"^PASS:(.+)"), "FAILED": re.compile(r"^FAIL:([^(]+)"), "SKIPPED": re.compile(r"^SKIP:(.+)")}
EXIT = re.compile(r"^ERROR: Exit status is (.+)")
DURATION = re.compile(r"^DURATION: (.+)")
PANIC = re.compile(r"Kernel panic - not syncing|BUG: unable to handle|BUG: kernel NULL pointer|Unable to handle kernel|watchdog: BUG: soft lockup")
KILLED = re.compile(r"Out of memory: Kill|Memory cgroup out of memory: Kill")

# Ends a process of the guest and all below it. PPid is in every kernel; ps of busybox does not print it.
KILL = """kids() ( for d in /proc/[0-9]*; do
  if [ "$(sed -n 's/^PPid:[[:space:]]*//p' $d/status 2>/dev/null)" = "$1" ]; then kids ${d#/proc/}; echo ${d#/proc/}; fi
done )
kill -9 $(kids %d) %d"""
DUMP = "ps; echo w > /proc/sysrq-trigger; dmesg | tail -n 60"

LOG_LIMIT = 8 << 20


class Console:
    """The logs of the guest's serial console, where there are some."""

    def __init__(self, directory):
        self.pattern = os.path.join(directory, "qemu_boot_log*")
        self.read = {}
        for path in glob.glob(self.pattern):
            self.read[path] = os.path.getsize(path)

    def new_text(self):
        text = ""
        for path in glob.glob(self.pattern):
            try:
                with open(path, "rb") as file:
                    file.seek(self.read.get(path, 0))
                    new = file.read(LOG_LIMIT)
            except OSError:
                continue
            self.read[path] = self.read.get(path, 0) + len(new)
            text += new.decode("utf-8", errors="replace")
        return text


class PtestTest(OERuntimeTestCase):
    def call(self, command, limit):
        """The status and the output of a short command; None without an answer."""
        words = self.target.ssh + [self.target.ip, "export PATH=/usr/sbin:/sbin:/usr/bin:/bin; " + command]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return None
        output = done.stdout.decode("utf-8", errors="replace")
        return None if done.returncode == 255 else (done.returncode, output)

    def is_alive(self):
        return any(self.call("true", 20) is not None for _ in range(3))

    def kills(self):
        """The kernel's messages about killed processes so far."""
        answer = self.call("dmesg", 30)
        return [line for line in (answer[1] if answer else "").splitlines() if KILLED.search(line)]

    def test_ptests(self):
        beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "build_agent_ptest.plan")
        with open(os.environ.get("BUILD_AGENT_PTEST_PLAN") or beside) as file:
            plan = json.load(file)
        if plan["ptests"] == []:
            self.skipTest("there is no ptest to run")
        self.silence = plan["silence"]
        self.logs = plan["logs"]
        os.makedirs(self.logs, exist_ok=True)
        self.console = Console(self.logs)
        self.directories = " ".join(dict.fromkeys(["/usr/lib", self.td.get("libdir") or "/usr/lib"]))
        answer = None
        for _ in range(5):
            answer = self.call('ptest-runner -l -d "%s"' % self.directories, 60)
            if answer is not None:
                break
            time.sleep(5)
        self.assertIsNotNone(answer, "the system under test does not answer ssh")
        self.assertNotEqual(answer[0], 127, "ptest-runner is not in the image: " + answer[1])
        listed = [line.split("\t")[0].strip() for line in answer[1].splitlines() if "\t" in line]
        wanted = plan["ptests"] if plan["ptests"] is not None else sorted(listed)
        self.sections, self.results, self.raw = {}, {}, []
        if not hasattr(self.tc, "extraresults"):
            self.tc.extraresults = {}
        bad = [name for name in wanted if name not in listed]
        for name in wanted:
            if name in listed:
                section = self.run_one(name)
                self.record(name, section)
                if section["bad"]:
                    bad.append(name)
                if section["dead"]:
                    break
        self.assertTrue(self.sections, "not a single ptest ran; the image has: %s" % (", ".join(listed) or "none"))
        self.assertEqual(bad, [], "failed ptests: " + ", ".join(bad))

    def record(self, name, section):
        known = {key: section[key] for key in ["log", "duration", "exitcode", "timeout", "oom", "panic"] if key in section}
        self.sections[name] = known
        extras = self.tc.extraresults
        extras["ptestresult.sections"] = self.sections
        for test, status in section["results"].items():
            test = "_".join(test.translate(str.maketrans("()", "__")).split())
            extras["ptestresult.%s.%s" % (name, test)] = {"status": status}
        self.raw.append(section["log"])
        extras["ptestresult.rawlogs"] = {"log": "".join(self.raw)[-LOG_LIMIT:]}

    def run_one(self, name):
        """Runs one ptest and watches its output and the console."""
        self.logger.info("ptest %s" % name)
        kills = self.kills()
        self.console.new_text()
        command = "export PATH=/usr/sbin:/sbin:/usr/bin:/bin; echo BUILD-AGENT-PID $$; exec ptest-runner -t %d -d \"%s\" %s"
        command = command % (self.silence * 2, self.directories, name)
        path = os.path.join(self.logs, "ptest-%s.log" % name)
        start = last = time.monotonic()
        section = {"bad": False, "dead": False, "results": {}}
        with open(path, "wb") as log:
            child = subprocess.Popen(
                self.target.ssh + [self.target.ip, command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                while True:
                    if select.select([child.stdout], [], [], 1)[0]:
                        data = os.read(child.stdout.fileno(), 65536)
                        if not data:
                            break
                        log.write(data)
                        log.flush()
                        last = time.monotonic()
                    news = self.console.new_text()
                    if news:
                        last = time.monotonic()
                        if PANIC.search(news):
                            section["panic"] = PANIC.search(news).string[PANIC.search(news).start():].splitlines()[0]
                            break
                    if time.monotonic() - last > self.silence:
                        section["timeout"] = True
                        break
                if "panic" not in section and "timeout" not in section:
                    child.wait(30)
            except subprocess.TimeoutExpired:
                pass
            finally:
                if child.poll() is None:
                    self.stop(path, child, section, log)
        self.read(path, child.returncode, section)
        section["duration"] = "%.1f" % (time.monotonic() - start)
        news = self.console.new_text()
        if PANIC.search(news):
            section["panic"] = news[PANIC.search(news).start():].splitlines()[0]
        section["dead"] = "panic" in section or not self.is_alive()
        if section["dead"] and "panic" not in section and "exitcode" not in section and "timeout" not in section:
            section["exitcode"] = "the system under test does not answer any more"
        killed = [] if section["dead"] else [line for line in self.kills() if line not in kills]
        if killed:
            section["oom"] = "\n".join(killed)
        signs = ["exitcode", "timeout", "oom", "panic"]
        failed = [test for test, status in section["results"].items() if status == "FAILED"]
        section["bad"] = bool(failed) or not section["results"] or any(sign in section for sign in signs)
        return section

    def stop(self, path, child, section, log):
        """Stops a ptest that hangs, first in the guest, and logs the state of the guest."""
        with open(path, "rb") as file:
            pid = re.search(rb"BUILD-AGENT-PID (\d+)", file.read(4096))
        if "panic" not in section:
            dump = self.call(DUMP, 30)
            if dump:
                log.write(b"\nbuild-agent: it is stopped; running processes, and the end of dmesg:\n" + dump[1].encode())
            if pid:
                self.call(KILL % (int(pid.group(1)), int(pid.group(1))), 30)
        child.kill()
        child.wait()

    def read(self, path, status, section):
        """Reads what ptest-runner printed."""
        with open(path, "rb") as file:
            data = file.read(LOG_LIMIT)
        text = data.decode("utf-8", errors="replace")
        section["log"] = re.sub(r"^BUILD-AGENT-PID \d+\r?\n", "", text)
        began = ended = False
        for line in section["log"].splitlines():
            began = began or line.startswith("BEGIN: ")
            ended = ended or line.startswith("END: ")
            if line.startswith("TIMEOUT: "):
                section["timeout"] = True
            if EXIT.match(line):
                section["exitcode"] = EXIT.match(line).group(1)
            for word, pattern in RESULT.items():
                if pattern.match(line):
                    section["results"][pattern.match(line).group(1).strip()] = word
        stopped = "timeout" in section or "panic" in section
        if not ended and not stopped:
            section["exitcode"] = "%s, before it completed" % status if began else "%s, before it began" % status
