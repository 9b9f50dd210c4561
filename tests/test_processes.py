"""What the tests start ends with them."""

from __future__ import annotations

import os
import sys

import pytest

from processes import running

FORKED = "import os, time; os.fork(); os.write(int({0}), b'.'); time.sleep(1000)"


@pytest.mark.timeout(60)  # of what is still there, the pipe's end doesn't come
def test_what_a_process_has_started_is_killed_with_it() -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-c", FORKED.format(writing)]
    with running(command, pass_fds=[writing]):
        os.close(writing)
        shown = b""
        while len(shown) < 2:  # both are there
            shown += os.read(reading, 2)
    assert os.read(reading, 1) == b""
    os.close(reading)
