"""An engine that is stuck is reported from outside. (Panics inside it are injected by tests of ossia-engine.)"""

import re
import threading

from conftest import chat


def test_a_step_that_takes_too_long_is_reported_with_what_it_was_doing(serve):
    server = serve("--watchdog", "200ms")
    assert server.metric("ossia_engine_stalls_total") == 0
    asked = threading.Thread(target=lambda: server.send(chat("stuck")))
    asked.start()
    said = server.wait_for_log(re.compile(r"the engine has been (.+) for [\d.]+ s: (\d+) tokens of (\d+) sequences"))
    assert said.group(1) == "computing" and said.group(3) == "1", said.group(0)
    assert server.metric("ossia_engine_stalls_total") >= 1
    assert server.get("/health").status == 200, "it is slow, not dead"
    server.wait_for_log(re.compile(r"the engine goes on, [\d.]+ s after that step began"))
    asked.join()
    server.wait_until_idle()


def test_steps_in_time_are_not_reported(serve):
    server = serve("--watchdog", "30s")
    assert server.send(chat("ticks")).status == 200
    assert server.metric("ossia_engine_stalls_total") == 0 and "the engine has been" not in server.log
