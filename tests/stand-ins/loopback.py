"""Parts of the HTTP servers on loopback: whole responses, and a port that the test reads from a file."""

import http.server
import os


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        """Sends a response. The `_` in the name of a header stands for `-`."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def serve(handler, port_file, context=None):
    """Serves until the process is ended, with TLS if there is a context."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with open(port_file + ".new", "w", encoding="utf-8") as port:
        port.write(str(server.server_port))
    os.rename(port_file + ".new", port_file)
    server.serve_forever()
