"""Stands between clients and the server, and holds every answer against OpenAI's document."""

import http.client
import http.server
import json
import threading
import urllib.parse

import contract

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length")


class Proxy:
    """Forwards to the server behind `url`; `url` of the proxy ends in /v1 as well."""

    def __init__(self, url: str):
        target = urllib.parse.urlsplit(url)
        self.target = (target.hostname, target.port)
        self.faults: list[str] = []
        self.num_bodies = 0
        self.num_events = 0
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def take_faults(self) -> list[str]:
        taken, self.faults = self.faults, []
        return taken

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def judge_body(self, method: str, path: str, status: int, raw: bytes) -> None:
        self.num_bodies += 1
        try:
            body = json.loads(raw)
        except ValueError:
            self.faults.append(f"{method} {path}: {status} is not JSON: {raw[:100]!r}")
            return
        self.faults += [f"{method} {path} {status}: {fault}" for fault in contract.body_faults(method, path, status, body)]

    def judge_event(self, method: str, path: str, event: bytes) -> None:
        lines = [line for line in event.split(b"\n") if not line.startswith(b":")]
        data = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]
        names = [line.removeprefix(b"event: ").decode() for line in lines if line.startswith(b"event: ")]
        if not data or data == [b"[DONE]"]:
            return
        self.num_events += 1
        value = json.loads(b"\n".join(data))
        found = contract.event_faults(method, path, value)
        if names and names != [value.get("type")]:
            found.append(f"the event's name is {names}, its type {value.get('type')!r}")
        self.faults += [f"{method} {path}: {fault}" for fault in found]


def handler(proxy: Proxy) -> type:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            upstream = http.client.HTTPConnection(*proxy.target, timeout=300)
            headers = {key: value for key, value in self.headers.items() if key.lower() not in HOP_BY_HOP}
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            try:
                self.relay(answer)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client went away; closing the connection tells the server
            finally:
                upstream.close()

        do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = do_HEAD = forward

        def relay(self, answer: http.client.HTTPResponse) -> None:
            path = urllib.parse.urlsplit(self.path).path
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in HOP_BY_HOP:
                    self.send_header(key, value)
            self.send_header("connection", "close")
            self.close_connection = True
            if answer.getheader("content-type", "").startswith("text/event-stream"):
                self.end_headers()
                self.relay_events(path, answer)
                return
            raw = answer.read()
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            if self.command != "HEAD" and answer.getheader("content-type", "").startswith("application/json"):
                proxy.judge_body(self.command, path, answer.status, raw)
            self.wfile.write(raw)

        def relay_events(self, path: str, answer: http.client.HTTPResponse) -> None:
            pending = b""
            while piece := answer.read1(65536):
                *events, pending = (pending + piece).split(b"\n\n")
                for event in events:
                    proxy.judge_event(self.command, path, event)
                self.wfile.write(piece)
                self.wfile.flush()
            if pending.strip():
                proxy.faults.append(f"{self.command} {path}: the stream ends inside an event: {pending[:100]!r}")

        def log_message(self, *_args) -> None:
            pass

    return Handler
