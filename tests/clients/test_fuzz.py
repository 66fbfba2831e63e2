"""Fuzzing: requests made from OpenAI's document, valid and broken. None may bring a 5xx.

The test command sends 200; `--fuzz-requests 2000` sends so many in all.
"""

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument
from schemathesis import GenerationMode
from schemathesis.core.errors import SchemathesisError

from contract import DOCUMENT

SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]
# A request without a body has nothing to break.
MODES = {True: [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], False: [GenerationMode.POSITIVE]}
CASES = [(operation, mode) for operation in OPERATIONS for mode in MODES[bool(operation.body)]]
# Where the large bodies are gets the larger share.
WEIGHTS = {"POST /chat/completions": 8, "POST /responses": 8, "POST /completions": 4}


def weight(operation) -> int:
    return WEIGHTS.get(operation.label, 1)


def num_requests(operation, total: int) -> int:
    everything = sum(weight(operation) for operation, _mode in CASES)
    return max(1, round(total * weight(operation) / everything))


@st.composite
def drawn(draw, cases):
    """A case. To break a body, the generator turns parts of its schema into their opposites; what it cannot write then
    (the opposite of an opposite, in large bodies) is tried again in another way."""
    try:
        return draw(cases)
    except (SchemathesisError, InvalidArgument):
        hypothesis.reject()


@pytest.mark.parametrize("operation, mode", CASES, ids=[f"{operation.label} {mode.value}" for operation, mode in CASES])
def test_no_request_brings_a_5xx(fuzzed, fuzz_statuses, request, operation, mode):
    total = request.config.getoption("--fuzz-requests")

    @hypothesis.settings(
        max_examples=num_requests(operation, total),
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
        deadline=None,
        database=None,
        derandomize=True,
    )
    @hypothesis.given(case=drawn(operation.as_strategy(generation_mode=mode)))
    def send(case):
        answer = case.call(base_url=fuzzed.direct_url, timeout=120)
        fuzz_statuses[answer.status_code] += 1
        assert answer.status_code < 500, f"{answer.status_code}: {answer.text}\n{case.as_curl_command()}"
        assert b'"server_error"' not in answer.content, answer.text

    send()
