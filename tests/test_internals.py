"""What we use of other packages that they do not document, and which versions of them were tried.

Such a thing may change in any minor release. So the ranges of these packages end where nobody has
looked: before the next one is let in, everything here has to be read again in its source.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Generic

import aiohttp
import pytest
from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from websockets.frames import TEXT, Frame
from websockets.server import ServerProtocol

from gateway import wire
from gateway.http import listener
from push import caller

ROOT = Path(__file__).parents[1]
TRIED = {"aiohttp": "3.14", "websockets": "17.4"}

# gateway/http/listener.py: how a connection reads, since when it waits, what it refuses by itself.
REQUEST_HANDLER = {
    "_buffer_paused",
    "_current_request",
    "_next_keepalive_close_time",
    "_pause_transport_reading",
    "_reading_paused",
    "_resume_transport_reading",
    "_waiter",
    "finish_response",
    "force_close",
    "handle_error",
    "keepalive_timeout",
}
# push/caller.py: by what a connector makes its connections; what one of them hears.
CONNECTOR = {"_factory", "connect"}
RESPONSE_HANDLER = {"data_received", "set_exception", "set_response_params", "transport"}
# gateway/wire.py: what waits to be sent; what keeps a core alive after its connection.
CORE = {"eof_sent", "handshake_exc", "parser", "parser_exc", "reader", "send_eof", "writes"}


def test_a_connection_of_aiohttps_server_has_what_ours_relies_on() -> None:
    assert {name for name in REQUEST_HANDLER if not hasattr(web.RequestHandler, name)} == set()
    assert hasattr(aiohttp.StreamReader, "feed_eof")
    assert hasattr(web.Server, "connections")


async def test_a_connection_of_aiohttps_client_has_what_ours_relies_on() -> None:
    assert {name for name in RESPONSE_HANDLER if not hasattr(ResponseHandler, name)} <= {
        "transport"  # of an instance only
    }
    async with aiohttp.TCPConnector() as connector:
        assert {name for name in CONNECTOR if not hasattr(connector, name)} == set()
        assert isinstance(connector._factory(), ResponseHandler)


def test_the_core_of_websockets_has_what_ours_relies_on() -> None:
    core = ServerProtocol()
    assert {name for name in CORE if not hasattr(core, name)} == set()
    assert core.writes == []
    assert not core.reader.eof
    assert bytes(Frame(TEXT, b"hello").serialize(mask=False)) == b"\x81\x05hello"


@pytest.mark.parametrize(
    ("ours", "named"),
    [
        (listener._Connection, REQUEST_HANDLER),
        (caller._Connector, CONNECTOR),
        (caller._Answering, RESPONSE_HANDLER),
        (wire._Core, CORE),
    ],
)
def test_nothing_private_of_theirs_is_used_that_is_not_named_here(
    ours: type, named: set[str]
) -> None:
    bases = [base for base in ours.__mro__[1:-1] if base is not Generic]  # it has no source
    theirs = "".join(map(inspect.getsource, bases))
    used = set(re.findall(r"(?:self|super\(\))\.(_[a-z]\w*)", inspect.getsource(ours)))
    private = {name for name in named if name.startswith("_")}
    assert {name for name in used if re.search(rf"\b{name}\b", theirs)} == private


@pytest.mark.parametrize("package", TRIED)
def test_no_minor_version_is_allowed_in_which_nobody_has_looked(package: str) -> None:
    major, minor = TRIED[package].split(".")
    assert version(package).startswith(f"{TRIED[package]}.") or version(package) == TRIED[package]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = [one for one in project["dependencies"] if one.startswith(package)]
    assert wanted.startswith(f"{package}>={TRIED[package]}")
    assert wanted.endswith(f",<{major}.{int(minor) + 1}")
