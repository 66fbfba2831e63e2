"""OpenAI's API document as a judge of answers: JSON bodies, stream events and error envelopes."""

import functools
import json
import pathlib
import re

import jsonschema

DOCUMENT = json.loads(pathlib.Path(__file__).with_name("openapi.json").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
PREFIX = "#/components/schemas/"

# Where OpenAI's own service and its SDKs differ from the document, and we follow them.
ALLOWED = [
    # Pieces of a streamed text completion have no reason yet; the document describes whole completions only.
    ("CreateCompletionResponse", re.compile(r"choices/\d+/finish_reason"), None),
    # With include_usage all pieces but the last have a usage of null, says `stream_options`, the schema does not.
    ("CreateCompletionResponse", re.compile("usage"), None),
    # The messages of a stored completion are those of the request; the schema is that of the assistant's.
    ("ChatCompletionMessageList", re.compile(r"data/\d+/role"), "user"),
    # A response that is under way has every key, the counts being null.
    ("Response", re.compile(r"(response/)?usage"), None),
]


def pattern(template: str) -> re.Pattern:
    return re.compile("/v1" + re.sub(r"\{\w+\}", r"[^/]+", template) + "$")


PATHS = [(pattern(template), item) for template, item in DOCUMENT["paths"].items()]
# Fixed words before ids: /chat/completions/render is no stored completion.
UNDOCUMENTED = {"/v1/chat/completions/render"}


def operation(method: str, path: str) -> dict | None:
    """What the document says of a request, if it is one of the document's."""
    if path in UNDOCUMENTED:
        return None
    matches = [item[method.lower()] for regex, item in PATHS if method.lower() in item and regex.match(path)]
    return matches[0] if matches else None


def schema_name(method: str, path: str, kind: str) -> str | None:
    """The component that an answer of the content type `kind` has to satisfy."""
    found = operation(method, path)
    if found is None:
        return None
    schema = found["responses"]["200"].get("content", {}).get(kind, {}).get("schema", {})
    if "$ref" in schema:
        return schema["$ref"].removeprefix(PREFIX)
    # A stored response can be streamed again; the document shows its whole form only.
    return "ResponseStreamEvent" if kind == "text/event-stream" and path.startswith("/v1/responses") else None


@functools.cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": PREFIX + name, "components": {"schemas": SCHEMAS}})


@functools.cache
def event_names() -> dict[str, str]:
    """The component of each event of a response, by its type."""
    names = {}
    for alternative in SCHEMAS["ResponseStreamEvent"]["anyOf"]:
        name = alternative["$ref"].removeprefix(PREFIX)
        for kind in SCHEMAS[name]["properties"]["type"]["enum"]:
            names[kind] = name
    return names


def faults(name: str, value) -> list[str]:
    """Where `value` breaks the schema of the component `name`."""
    found = []
    for error in validator(name).iter_errors(value):
        error = jsonschema.exceptions.best_match([error])
        place = "/".join(map(str, error.absolute_path))
        allowed = any(
            name.startswith(component) and regex.fullmatch(place) and error.instance == instance
            for component, regex, instance in ALLOWED
        )
        if not allowed:
            found.append(f"{name}: {place or 'the whole'}: {error.message[:300]}")
    return found


def body_faults(method: str, path: str, status: int, body) -> list[str]:
    """Where a whole answer breaks the document."""
    if status >= 400:
        return faults("ErrorResponse", body)
    name = schema_name(method, path, "application/json")
    return faults(name, body) if name else []


def event_faults(method: str, path: str, data) -> list[str]:
    """Where an event of a stream breaks the document."""
    name = schema_name(method, path, "text/event-stream")
    if isinstance(data, dict) and set(data) == {"error"}:
        return faults("ErrorResponse", data)
    if name is None and path == "/v1/completions":
        name = "CreateCompletionResponse"
    if name == "ResponseStreamEvent":
        kind = data.get("type")
        if kind not in event_names():
            return [f"ResponseStreamEvent: no event has the type {kind!r}"]
        name = event_names()[kind]
    return faults(name, data) if name else [f"{method} {path} streams, which the document does not know"]
