"""Traces, as a collector on loopback receives them; and a collector that is not there, which costs nobody anything."""

import http.server
import json
import subprocess
import threading

import pytest

from conftest import OSSIA, chat, environment, post, until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PROMPT = "xylophone4711"


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes batches of spans; `refuses` makes it answer that it cannot."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        data = self.rfile.read(int(self.headers["content-length"]))
        server = self.server
        server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, data))
        self.send_response(503 if server.refuses else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.requests, server.refuses = [], False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def endpoint(collector) -> str:
    return f"http://127.0.0.1:{collector.server_port}"


def spans(collector) -> list[dict]:
    """All spans that came, with their attributes as a dictionary."""
    found = []
    for _, _, data in collector.requests:
        for resource in json.loads(data)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                found += scope["spans"]
    for span in found:
        span["attributes"] = {a["key"]: next(iter(a["value"].values())) for a in span.get("attributes", [])}
    return found


def test_a_request_is_told_in_parts_under_its_callers_span(serve, collector):
    server = serve("--otlp-endpoint", endpoint(collector))
    traceparent = f"traceparent: 00-{TRACE}-{PARENT}-01\r\n"
    answer = server.send(chat(f"hi {PROMPT}", stream=True, headers=traceparent, stream_options={"include_usage": True}))
    usage = [json.loads(line[6:]) for line in answer.body.splitlines() if b'"usage":{' in line][-1]["usage"]
    assert server.send(chat("hi", response_format={"type": "none"})).status == 400
    assert server.send(post("/v1/completions", b'{"prompt": "hi", "max_tokens": 2}')).status == 200
    server.get("/health")
    assert server.stop() == 0, "what is left is sent before the end"
    path, headers, data = collector.requests[0]
    assert path == "/v1/traces" and headers["content-type"] == "application/json"
    resource = {a["key"]: a["value"]["stringValue"] for a in json.loads(data)["resourceSpans"][0]["resource"]["attributes"]}
    assert resource["service.name"] == "ossia" and resource["service.version"]
    everything = spans(collector)
    ours = {span["name"]: span for span in everything if span["traceId"] == TRACE}
    assert set(ours) == {"POST /v1/chat/completions", "chat scripted", "queue", "prefill", "decode"}
    request, turn = ours["POST /v1/chat/completions"], ours["chat scripted"]
    assert request["parentSpanId"] == PARENT and turn["parentSpanId"] == request["spanId"]
    assert request["attributes"]["http.response.status_code"] in (200, "200") and request["kind"] == 2
    assert {ours[part]["parentSpanId"] for part in ("queue", "prefill", "decode")} == {turn["spanId"]}
    expected = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "scripted", "gen_ai.usage.input_tokens": str(usage["prompt_tokens"])}
    assert {name: str(turn["attributes"][name]) for name in expected} == expected
    assert str(turn["attributes"]["gen_ai.usage.output_tokens"]) == str(usage["completion_tokens"])
    assert "stop" in json.dumps(turn["attributes"]["gen_ai.response.finish_reasons"])
    times = [int(ours[part][edge]) for part in ("queue", "prefill", "decode") for edge in ("startTimeUnixNano", "endTimeUnixNano")]
    assert times == sorted(times), "the parts follow one another"
    assert int(request["startTimeUnixNano"]) <= times[0] and times[-1] <= int(turn["endTimeUnixNano"]) <= int(request["endTimeUnixNano"])
    # Requests of their own have traces of their own; probes have none; nothing holds what was said.
    names = [span["name"] for span in everything if span["traceId"] != TRACE]
    assert names.count("POST /v1/chat/completions") == 1 and "text_completion scripted" in names, names
    assert not any("health" in name for name in names)
    assert len({span["traceId"] for span in everything}) == 3
    assert PROMPT.encode() not in b"".join(data for _, _, data in collector.requests)
    assert f"trace={TRACE}" in server.log, "log lines name the trace"


@pytest.mark.parametrize("header", ["", "00", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}", "x" * 5000])
def test_a_parent_that_is_none_begins_a_trace(serve, collector, header):
    server = serve("--otlp-endpoint", endpoint(collector))
    assert server.send(chat("hi", headers=f"traceparent: {header}\r\n")).status == 200
    assert server.stop() == 0
    request = next(span for span in spans(collector) if span["name"].startswith("POST"))
    assert request["traceId"] != TRACE and not request.get("parentSpanId"), request


def test_a_caller_that_does_not_sample_gets_no_spans(serve, collector):
    server = serve("--otlp-endpoint", endpoint(collector))
    assert server.send(chat("hi", headers=f"traceparent: 00-{TRACE}-{PARENT}-00\r\n")).status == 200
    assert server.stop() == 0
    assert not spans(collector)


def test_a_collector_that_is_lost_is_said_once_and_costs_nothing(serve, collector):
    collector.refuses = True
    server = serve("--otlp-endpoint", endpoint(collector), env={"OTEL_BSP_SCHEDULE_DELAY": "100"})
    for num_batches in (1, 2):
        assert server.send(chat("hi")).status == 200
        until("a batch was sent", lambda: len(collector.requests) >= num_batches)
    until("it is said", lambda: "traces do not arrive" in server.log)
    assert server.log.count("traces do not arrive") == 1, server.log
    collector.refuses = False
    assert server.send(chat("hi")).status == 200
    until("it is back", lambda: "traces arrive at" in server.log)
    assert server.stop() == 0


def test_without_an_endpoint_there_is_nothing(serve):
    server = serve(env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert server.send(chat("hi")).status == 200
    assert server.stop() == 0 and "traces" not in server.log


def test_offline_means_no_traces_either(tmp_path):
    command = [OSSIA, "serve", "scripted:", "--config", "none", "--port", "0", "--store", "none", "--otlp-endpoint", "http://user:celesta4711@127.0.0.1:9"]
    env = environment({"OSSIA_OFFLINE": "1"})
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, env=env)
    assert done.returncode == 1 and "OSSIA_OFFLINE" in done.stderr and "celesta4711" not in done.stderr, done.stderr
