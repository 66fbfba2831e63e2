"""Writes openapi.json: the part of OpenAI's OpenAPI document that Ossia serves, for the validator and the fuzzer.

    python tests/clients/extract_openapi.py PATH/TO/openapi.yaml      (needs PyYAML)

Kept: the paths below with their answers of success, and the components that these reach. Left out: descriptions, examples and vendor extensions. Changed,
so that a JSON Schema validator reads the document as its authors meant it: `nullable: true` becomes a union with null,
and `oneOf` becomes `anyOf`, since many of its alternatives overlap.
"""

import hashlib
import json
import pathlib
import sys

import yaml

ROOTS = ("chat", "completions", "models", "responses", "conversations")
METHODS = ("get", "post", "delete")
DROPPED = ("description", "example", "examples", "title", "externalDocs", "deprecated", "summary", "tags")
OUTPUT = pathlib.Path(__file__).with_name("openapi.json")


def is_ours(path: str) -> bool:
    return "?" not in path and path.split("/")[1] in ROOTS


def cleaned(node, names_are_keys: bool = False):
    """`node` without what a validator does not need; under `properties` every key is a name and stays."""
    if isinstance(node, list):
        return [cleaned(item) for item in node]
    if not isinstance(node, dict):
        return node
    if names_are_keys:
        return {name: cleaned(value) for name, value in node.items()}
    kept = {
        ("anyOf" if key == "oneOf" else key): cleaned(value, key in ("properties", "schemas"))
        for key, value in node.items()
        if key not in DROPPED and key not in ("nullable", "discriminator") and not key.startswith("x-")
    }
    if node.get("nullable") is True:
        kept.pop("default", None)
        return {"anyOf": [kept, {"type": "null"}]}
    return kept


def references(node) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(references, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    found = set().union(*map(references, node.values())) if node else set()
    reference = node.get("$ref")
    return found | {reference} if isinstance(reference, str) else found


def reached(components: dict, start: set[str]) -> dict:
    """The schemas that `start` refers to, directly or not."""
    kept, todo = {}, sorted(start)
    while todo:
        name = todo.pop().removeprefix("#/components/schemas/")
        if name not in kept:
            kept[name] = components[name]
            todo.extend(references(components[name]))
    return dict(sorted(kept.items()))


def main() -> None:
    source = pathlib.Path(sys.argv[1])
    text = source.read_bytes()
    document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    paths = {}
    for path, item in document["paths"].items():
        if is_ours(path):
            paths[path] = {key: cleaned(value) for key, value in item.items() if key in METHODS or key == "parameters"}
            for operation in paths[path].values():
                if isinstance(operation, dict):
                    operation.pop("security", None)
                    operation["responses"] = {"200": operation["responses"]["200"] | {"description": ""}}
    components = cleaned({"schemas": document["components"]["schemas"]})["schemas"]
    start = references(paths) | {"#/components/schemas/ErrorResponse"}
    output = {
        "openapi": document["openapi"],
        "info": {
            "title": "A part of OpenAI's API document",
            "version": document["info"]["version"],
            "description": f"Extracted by {pathlib.Path(__file__).name} from openapi.yaml, sha256 "
            f"{hashlib.sha256(text).hexdigest()}. The document is OpenAI's, under the MIT licence.",
        },
        "paths": paths,
        "components": {"schemas": reached(components, start)},
    }
    OUTPUT.write_text(json.dumps(output, separators=(",", ":"), default=str) + "\n")
    print(f"{OUTPUT}: {len(paths)} paths, {len(output['components']['schemas'])} schemas, {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
