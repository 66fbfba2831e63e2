"""Damaged checkpoints: the file is named, the exit code is that of an error, and nothing panics.

Weights carry no checksum of their own, so a bit that flips in the middle of a matrix is another matrix; then the model
has to answer something, or refuse, and stay whole. What the hub's hashes catch is tested with `ossia pull`.
"""

import json
import pathlib
import random
import shutil
import struct
import subprocess

import pytest

from conftest import OSSIA, ROOT, environment

DEMO = ROOT / "models/demo"
WEIGHTS, CONFIG, TOKENIZER, INDEX = "model.safetensors", "config.json", "tokenizer.json", "model.safetensors.index.json"


def run(*args: str) -> tuple[int, str]:
    """The exit code of a command, and what it said on both streams."""
    env = environment({"OSSIA_LOG": "warn", "HOME": "/nonexistent"})
    done = subprocess.run([OSSIA, *args], capture_output=True, text=True, errors="replace", timeout=300, env=env)
    return done.returncode, done.stdout + done.stderr


def generate(dir: pathlib.Path) -> tuple[int, str]:
    return run("generate", str(dir), "--prompt", "What is 2 + 2?", "--max-tokens", "4", "--temperature", "0", "--kv-cache-memory", "4MiB")


def check_whole(code: int, said: str):
    """Whatever came of it, it came in an orderly way."""
    assert code in (0, 1), f"exit code {code}:\n{said}"
    assert "panicked" not in said and "RUST_BACKTRACE" not in said, said


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the demo, in one file of weights."""
    return pathlib.Path(shutil.copytree(DEMO, tmp_path / "checkpoint"))


def header_of(weights: bytes) -> dict:
    (length,) = struct.unpack("<Q", weights[:8])
    return json.loads(weights[8 : 8 + length])


def shard(dir: pathlib.Path):
    """Cuts the weights into two files with an index."""
    weights = (dir / WEIGHTS).read_bytes()
    start = 8 + struct.unpack("<Q", weights[:8])[0]
    tensors = {name: entry for name, entry in header_of(weights).items() if name != "__metadata__"}
    names, weight_map = sorted(tensors), {}
    for idx, chosen in enumerate([names[::2], names[1::2]]):
        file, header, data = f"model-{idx}.safetensors", {}, b""
        for name in chosen:
            first, last = tensors[name]["data_offsets"]
            header[name] = {**tensors[name], "data_offsets": [len(data), len(data) + last - first]}
            data += weights[start + first : start + last]
            weight_map[name] = file
        text = json.dumps(header).encode()
        (dir / file).write_bytes(struct.pack("<Q", len(text)) + text + data)
    (dir / WEIGHTS).unlink()
    (dir / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def patched(path: pathlib.Path, change):
    path.write_bytes(change(path.read_bytes()))


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut to half": lambda path: patched(path, lambda data: data[: len(data) // 2]),
    "cut to a few bytes": lambda path: patched(path, lambda data: data[:7]),
    "short of its last byte": lambda path: patched(path, lambda data: data.rstrip()[:-1]),
    "zeros": lambda path: patched(path, lambda data: bytes(len(data))),
    "noise": lambda path: patched(path, lambda data: random.Random(1).randbytes(min(len(data), 100_000))),
    "a list": lambda path: path.write_text("[]"),
    "a page of HTML": lambda path: path.write_text("<html>404</html>"),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [CONFIG, TOKENIZER, WEIGHTS])
def test_a_damaged_file_is_named(checkpoint, name, damage):
    DAMAGES[damage](checkpoint / name)
    code, said = generate(checkpoint)
    check_whole(code, said)
    assert code == 1 and name in said, said


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [INDEX, "model-1.safetensors"])
def test_a_damaged_file_of_several_is_named(checkpoint, name, damage):
    shard(checkpoint)
    if damage == "missing":
        code, said = generate(checkpoint)
        assert code == 0, f"the cut one is good:\n{said}"
    DAMAGES[damage](checkpoint / name)
    code, said = generate(checkpoint)
    check_whole(code, said)
    # Without its index it is taken for a checkpoint of one file, and that one is missing.
    expected = WEIGHTS if name == INDEX and damage in ("missing", "a link to nothing") else name
    assert code == 1 and expected in said, said


def test_doctor_says_the_same_and_exits_alike(checkpoint):
    DAMAGES["cut to half"](checkpoint / WEIGHTS)
    code, said = run("doctor", str(checkpoint), "--config", "none", "--store", "memory", "--port", "0")
    check_whole(code, said)
    assert code == 1 and WEIGHTS in said, said


ENTRY_CHANGES = {
    "the shape is another": lambda entry: entry.update(shape=[*entry["shape"][:-1], entry["shape"][-1] + 1]),
    "the type is another": lambda entry: entry.update(dtype="I64"),
    "the end is before the start": lambda entry: entry.update(data_offsets=entry["data_offsets"][::-1]),
    "the end is beyond the file": lambda entry: entry.update(data_offsets=[entry["data_offsets"][0], 1 << 40]),
    "an offset is negative": lambda entry: entry.update(data_offsets=[-1, entry["data_offsets"][1]]),
    "offsets overflow": lambda entry: entry.update(data_offsets=[2**64 - 1, 2**64 - 1]),
    "sizes overflow": lambda entry: entry.update(shape=[2**33, 2**33]),
    "the shape is a text": lambda entry: entry.update(shape="big"),
    "nothing is said": lambda entry: entry.clear(),
}


@pytest.mark.parametrize("change", ENTRY_CHANGES)
def test_a_header_that_lies_names_the_tensor(checkpoint, change):
    def lie(weights: bytes) -> bytes:
        header = header_of(weights)
        start = 8 + struct.unpack("<Q", weights[:8])[0]
        ENTRY_CHANGES[change](header["model.norm.weight"])
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + weights[start:]

    patched(checkpoint / WEIGHTS, lie)
    code, said = generate(checkpoint)
    check_whole(code, said)
    assert code == 1 and WEIGHTS in said and "model.norm.weight" in said, said


FIELDS = [
    ("num_hidden_layers", 0), ("num_hidden_layers", 10**9), ("num_hidden_layers", -1), ("hidden_size", 10**12), ("hidden_size", 63),
    ("vocab_size", 0), ("num_attention_heads", 0), ("num_key_value_heads", 3), ("num_key_value_heads", 0), ("head_dim", 0), ("head_dim", 7),
    ("num_local_experts", 0), ("experts_per_token", 0), ("num_experts_per_tok", 10**6), ("sliding_window", 0), ("sliding_window", 2**63),
    ("rms_norm_eps", "small"), ("rms_norm_eps", -1), ("rope_theta", 0), ("rope_theta", -5), ("swiglu_limit", -7), ("layer_types", ["full_attention"]),
    ("layer_types", ["other"] * 4), ("max_position_embeddings", 0), ("model_type", "llama"), ("rope_scaling", {"rope_type": "yarn"}),
    ("rope_scaling", 7), ("quantization_config", {"quant_method": "awq"}), ("intermediate_size", 2**62), ("vocab_size", 2**60),
]


@pytest.mark.parametrize("field, value", FIELDS)
def test_a_configuration_that_lies_is_refused(checkpoint, field, value):
    config = json.loads((checkpoint / CONFIG).read_text())
    config[field] = value
    (checkpoint / CONFIG).write_text(json.dumps(config))
    code, said = generate(checkpoint)
    check_whole(code, said)
    # Either the field is named, or a tensor that is not as it says, or a file that is too short for it.
    assert code == 1 and any(word in said for word in (field, "tensor `", "model_type")), said


def flip(path: pathlib.Path, places: list[int]):
    data = bytearray(path.read_bytes())
    for place in places:
        data[place // 8] ^= 1 << (place % 8)
    path.write_bytes(bytes(data))


def flips(checkpoint, name: str, bits: range, count: int, seed: int):
    """Flips a bit at a time and looks what comes of it: an orderly refusal that names the file, or an answer."""
    rng, good = random.Random(seed), (checkpoint / name).read_bytes()
    outcomes = {0: 0, 1: 0}
    for _ in range(count):
        place = rng.choice(bits)
        flip(checkpoint / name, [place])
        code, said = generate(checkpoint)
        check_whole(code, f"{name}, bit {place}:\n{said}")
        assert code == 0 or name in said or "tensor `" in said, f"{name}, bit {place}:\n{said}"
        outcomes[code] += 1
        (checkpoint / name).write_bytes(good)
    print(f"{name}: {outcomes[1]} of {count} flipped bits were refused")


def spans(checkpoint) -> list[tuple[str, range]]:
    size = {name: len((checkpoint / name).read_bytes()) * 8 for name in (CONFIG, TOKENIZER, WEIGHTS)}
    header = 8 * (8 + struct.unpack("<Q", (checkpoint / WEIGHTS).read_bytes()[:8])[0])
    return [
        (WEIGHTS, range(64)),
        (WEIGHTS, range(64, header)),
        (WEIGHTS, range(header, size[WEIGHTS])),
        (CONFIG, range(size[CONFIG])),
        (TOKENIZER, range(size[TOKENIZER])),
    ]


def test_flipped_bits_are_refused_or_survived(checkpoint):
    for name, bits in spans(checkpoint):
        flips(checkpoint, name, bits, 5, seed=1)


@pytest.mark.thorough
def test_many_flipped_bits_are_refused_or_survived(checkpoint):
    for name, bits in spans(checkpoint):
        flips(checkpoint, name, bits, 150, seed=2)
