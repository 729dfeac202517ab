"""Runs the script in hash_server.yml with real BitBake, if its URL replies."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import unittest

from templates import free_port, hash_server_script, listens, load, wait_for


class HashServer(unittest.TestCase):
    """The task's own script with real BitBake."""

    def setUp(self):
        parameters = load("hash_server")["Parameters"]
        self.url = os.environ.get("BUILD_AGENT_TEST_BITBAKE", parameters["BitbakeUrl"]["Default"])
        self.tag = parameters["BitbakeTag"]["Default"]
        self.commit = parameters["BitbakeCommit"]["Default"]
        asked = ["timeout", "30", "git", "ls-remote", "--quiet", "--exit-code", self.url, f"refs/tags/{self.tag}"]
        if subprocess.run(asked, capture_output=True, stdin=subprocess.DEVNULL).returncode != 0:
            self.skipTest(f"{self.url} does not answer")
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)

    def start(self, commit):
        self.read, self.write = free_port(), free_port()
        environment = os.environ | {
            "RELEASE": "scarthgap",
            "BITBAKE_URL": self.url,
            "BITBAKE_TAG": self.tag,
            "BITBAKE_COMMIT": commit,
            "SNAPSHOTS": self.directory.name,
            "SNAPSHOT_SECONDS": "3600",
            "READ_PORT": str(self.read),
            "WRITE_PORT": str(self.write),
            "HASHSERVER_ANON_PERMS": "@read @report",
        }
        process = subprocess.Popen(
            ["bash", "-c", hash_server_script()], env=environment, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )

        def end():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            process.stderr.close()

        self.addCleanup(end)
        return process

    def ask(self, port, *messages):
        """Returns the replies of a server; None if it closed the connection."""
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            lines = connection.makefile("rw")
            lines.write("OEHASHEQUIV 1.1\n\n")
            answers = []
            for message in messages:
                lines.write(json.dumps(message) + "\n")
                lines.flush()
                answer = lines.readline()
                answers.append(json.loads(answer) if answer else None)
            return answers

    def test_the_read_port_reads_what_the_write_port_wrote_also_after_a_restart(self):
        task = {"method": "m", "taskhash": "a" * 64}
        report = {"report": {**task, "outhash": "b" * 64, "unihash": "c" * 64}}
        get = {"get": {**task, "all": False}}
        for first in (True, False):
            process = self.start(self.commit)
            wait_for("hash server", lambda: listens(self.write) and listens(self.read), process, 120)
            if first:
                self.ask(self.read, report)
                self.assertEqual(self.ask(self.read, get), [None], "the read port has written")
                [accepted] = self.ask(self.write, report)
                self.assertEqual(accepted["unihash"], "c" * 64)
            [known] = self.ask(self.read, get)
            self.assertEqual(known["unihash"], "c" * 64)
            process.terminate()
            self.assertEqual(process.wait(timeout=60), 0)
            self.assertFalse(listens(self.write) or listens(self.read), "a server was left behind")

    def test_another_commit_is_rejected(self):
        process = self.start("0" * 40)
        self.assertEqual(process.wait(timeout=120), 1)
        self.assertIn("nothing is run", process.stderr.read())
