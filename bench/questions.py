"""Questions about the existence of shared state: who asks, and the job whose endpoint answers.

One question is a HEAD request on a connection that stays open, from as many clients at once as BitBake has threads
(BB_NUMBER_THREADS), or a question of BitBake's own fetcher (`checkstatus` of fetch2/wget.py) in the threads of
`sstate_checkhashes`. Half of the questions name objects that do not exist. Every answer is checked.
"""

import http.client
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PORT = 28463
MANIFEST = """version = 1
name = "bench"
release = "scarthgap"
[repos.poky]
path = "poky"
layers = ["meta", "meta-poky"]
[layer]
paths = ["layer"]
[cache]
share = "s3://bucket/share"
"""


def ask(port, prefix, part, result):
    """Asks on one connection, as fast as the other side answers; counts the objects that exist."""
    requests = [
        f"HEAD {prefix}{urllib.parse.quote(path)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode() for path in part
    ]
    client, found = socket.create_connection(("127.0.0.1", port)), 0
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    result.send(None)  # ready
    result.recv()
    for request in requests:
        client.sendall(request)
        answer = client.recv(4096)
        while not answer.endswith(b"\r\n\r\n"):
            answer += client.recv(4096)
        found += answer.startswith(b"HTTP/1.1 200 ")
    result.send(found)


def parallel(port, prefix, paths, threads):
    """Seconds until all questions are answered."""
    clients = []
    for number in range(threads):
        ours, theirs = multiprocessing.Pipe()
        part = paths[number::threads]
        process = multiprocessing.Process(target=ask, args=(port, prefix, part, theirs))
        process.start()
        clients.append((process, ours))
    for _, pipe in clients:
        pipe.recv()
    start = time.perf_counter()
    for _, pipe in clients:
        pipe.send(None)
    found = sum(pipe.recv() for _, pipe in clients)
    seconds = time.perf_counter() - start
    for process, _ in clients:
        process.join()
    if found != (len(paths) + 1) // 2:
        sys.exit(f"wrong: {found} of {len(paths)} objects were said to exist")
    return seconds


BITBAKE = """
import concurrent.futures, itertools, json, logging, queue, sys, time
sys.path.insert(0, sys.argv[1])
import bb, bb.data, bb.fetch2
base, threads, paths = sys.argv[2], int(sys.argv[3]), json.load(sys.stdin)
logging.disable(logging.CRITICAL)
d = bb.data.init()
for name, value in {
    "DL_DIR": sys.argv[4], "FILESPATH": sys.argv[4], "PREMIRRORS": f"file://.* {base}/PATH;downloadfilename=PATH",
    "PERSISTENT_DIR": sys.argv[4], "BB_CACHEDIR": sys.argv[4], "BB_CHECK_SSL_CERTS": sys.argv[5],
}.items():
    d.setVar(name, value)
caches, found, counter = queue.Queue(threads), [], itertools.count(1)
while not caches.full():
    caches.put(bb.fetch2.FetchConnectionCache())
def check(path):
    cache, copy = caches.get(), bb.data.createCopy(d)
    copy.setVar("SRC_URI", "file://" + path)
    try:
        bb.fetch2.Fetch(["file://" + path], copy, connection_cache=cache).checkstatus()
        found.append(path)
    except bb.fetch2.FetchError:
        pass
    caches.put(cache)
start = time.perf_counter()
with concurrent.futures.ThreadPoolExecutor(max_workers=threads) as executor:
    list(executor.map(check, paths))
print(json.dumps([time.perf_counter() - start, len(found)]))
"""


def by_bitbake(tree, base, paths, threads, scratch, check_certificates):
    """`check_certificates`: BB_CHECK_SSL_CERTS. The agent sets it to 0 for its endpoint; BitBake's default is 1."""
    argv = [sys.executable, "-c", BITBAKE, os.path.join(tree, "lib"), base, str(threads), scratch, check_certificates]
    done = subprocess.run(argv, input=json.dumps(paths), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"BitBake's fetcher failed:\n{done.stderr}")
    seconds, found = json.loads(done.stdout.splitlines()[-1])
    if found != (len(paths) + 1) // 2:
        sys.exit(f"wrong: BitBake found {found} of {len(paths)} objects")
    return seconds


class Shell:
    """A `build-agent shell` on a machine of its own; in it runs nothing, until the end."""

    def __init__(self, agent, scratch, port, work, probe):
        environment = dict(
            os.environ, AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{port}", AWS_REGION="us-east-1",
            AWS_ACCESS_KEY_ID="bench", AWS_SECRET_ACCESS_KEY="bench",
        )
        argv = [agent, "shell", "build-agent.toml", "--trusted", "--work-dir", os.path.join(scratch, work), "--",
                "sh", "-c", "echo ready; read line"]
        start = time.perf_counter()
        self.child = subprocess.Popen(
            argv, cwd=scratch, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for line in self.child.stdout:
            if line.strip() == "ready":
                break
        else:
            sys.exit("the shell did not start")
        connection = http.client.HTTPConnection("127.0.0.1", PORT)
        connection.request("HEAD", probe)
        if connection.getresponse().status != 200:
            sys.exit("the endpoint does not know the first object")
        self.first = time.perf_counter() - start

    def end(self):
        self.child.communicate("end\n")
        if self.child.returncode:
            sys.exit(f"the shell ended with status {self.child.returncode}")


def prepare(scratch):
    """A project with the stand-ins of the tests: the agent reads as much of poky as it needs here."""
    os.chmod(scratch, 0o755)
    shutil.copytree(os.path.join(TOP, "tests/stand-ins/poky"), os.path.join(scratch, "poky"))
    shutil.copytree(os.path.join(TOP, "tests/stand-ins/layer"), os.path.join(scratch, "layer"))
    with open(os.path.join(scratch, "build-agent.toml"), "w") as file:
        file.write(MANIFEST)
