"""The JavaScript client in Node: its pure parts, its types, and it against a real gateway."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

from gateway.protocol import Role
from tests.faults.needs import needs
from tests.running import PATIENT, running
from tests.web.packages import packages

HERE = Path(__file__).parent
SERVED = Path("gateway/web")
PURE = [
    "browser", "client", "connection", "console", "notifications", "ops-figures", "scripts",
    "timeline",
]  # fmt: skip
CUSTOMERS = ["both", "broken", "behind", "past", "device"]


@pytest.mark.parametrize("name", PURE)
def test_the_javascript_client_decides_as_its_own_tests_say(name: str) -> None:
    needs("node")
    ran = subprocess.run(
        ["node", "--test", HERE / f"{name}.test.mjs"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


async def test_the_javascript_client_speaks_with_a_real_gateway(tmp_path: Path) -> None:
    packages()
    async with running(tmp_path, delivery=PATIENT) as it:
        told = {
            "chat": it.chat_url("/v1/chat"),
            "agent": it.chat_url("/v1/agent"),
            "http": it.url(""),
            "tokens": {name: it.token(Role.CUSTOMER, name) for name in CUSTOMERS},
            "agentToken": it.token(Role.AGENT, "a-1"),
        }
        node = await asyncio.create_subprocess_exec(
            "node",
            "--test",
            "--test-timeout=10000",
            str(HERE / "gateway.test.mjs"),
            env=os.environ | {"RINGBACK_TEST": json.dumps(told)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(40):
                said, _ = await node.communicate()
        finally:
            if node.returncode is None:
                node.kill()
        assert node.returncode == 0, said.decode()
        call = await it.backend.take()
        assert call.body["deviceToken"] == "behind-token"
        assert call.badge == 1


def test_the_types_are_of_this_client() -> None:
    installed = packages()
    ran = subprocess.run(
        ["node", installed / "typescript/bin/tsc", "--project", HERE / "tsconfig.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
