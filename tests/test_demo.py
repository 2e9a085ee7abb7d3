"""The demo is a promise to newcomers: it runs, it shows what it says, and it can fail."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 55.0  # seconds; the promise is 40 on an idle machine

pytestmark = pytest.mark.timeout(90)


def _play(*command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run the demo with its temporary files in `directory`."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(directory), "COLUMNS": "80"},
        capture_output=True,
        encoding="utf-8",
        timeout=LONGEST,
        check=False,
    )


def _get(address: str) -> str:
    """The body of a page on this machine."""
    url = urlsplit(address)
    with closing(HTTPConnection(url.netloc, timeout=10)) as connection:
        connection.request("GET", url.path)
        return connection.getresponse().read().decode()


def test_the_demo_plays_all_nine_scenes_and_exits_with_0(tmp_path: Path) -> None:
    played = _play("-m", "examples.demo", directory=tmp_path)
    assert played.returncode == 0, played.stdout + played.stderr
    assert played.stderr == ""
    told = played.stdout
    scenes = re.findall(r"^(\d)  \S", told, re.MULTILINE)
    assert scenes == list("123456789")
    for line in (
        "the backend was called 0 times",
        "one ring for both, unread 3",
        "from commit to push",
        "with no gap",
        "a silent ring sets the phone's badge to 0",
        "it rang under the new token, unread 1",
        "there is nowhere to send it (no_device)",
        "it rang after the restart",
        "one attempt is recorded",
        "Carol's phone rings",
        "every message has the one outcome that it should",
        "12 accepted = 2 acked + 9 pushed + 0 expired + 1 undeliverable + 0 pending",
        "8 calls in all, none of them twice",
        "the old device token was never called again",
        "All as it should be",
    ):
        assert line in told
    assert list(tmp_path.iterdir()) == [], "what was made for the demo is gone"


def test_the_demo_exits_with_1_and_says_why_when_something_is_off(tmp_path: Path) -> None:
    spoiled = "import sys; from examples import demo; demo.AT_MOST = -1.0; sys.exit(demo.run())"
    played = _play("-c", spoiled, directory=tmp_path)
    assert played.returncode == 1, played.stdout + played.stderr
    assert "✗ DemoFailed: this is not so: from commit to push" in played.stdout
    assert "All as it should be" not in played.stdout
    assert list(tmp_path.iterdir()) == []


def test_serve_leaves_gateway_and_backend_running_until_it_is_told_to_end(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "examples.demo", "--serve"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as demo:
        assert demo.stdout is not None
        told = ""
        for line in demo.stdout:
            told += line
            if line.startswith("metrics "):
                break
        assert "\nmetrics " in told, told
        address = told.split()[-1]
        assert 'ringback_messages{outcome="accepted",tenant="acme"} 12.0' in _get(address)
        demo.send_signal(signal.SIGTERM)
        demo.communicate(timeout=LONGEST)
    assert demo.returncode == 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        _get(address)
