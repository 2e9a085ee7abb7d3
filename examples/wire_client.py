"""A whole Ringback client, small enough to be read in one go before writing one's own.

Written from docs/protocol.md alone, with another WebSocket library than the server's (aiohttp), and
importing nothing from Ringback. Each line of stdin (a terminal or a pipe) is sent; each message
that comes is printed, acknowledged and read. After a broken connection it comes back and resumes;
what had no answer is sent again under the same ref. When stdin ends, it says bye::

    python -m examples.wire_client ws://127.0.0.1:8080/v1/chat "$(ringback token --sub c-42)"
"""

import asyncio
import json
import random
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import aiohttp

Show = Callable[[str], object]
UTF8 = partial(json.dumps, ensure_ascii=False)  # written with escapes, a long text fits no frame


class Conversation:
    """What a client has to remember: where it is (`epoch`, `seq`), and what has no answer yet."""

    def __init__(self, token: str, show: Show) -> None:
        self.token = token
        self.show = show
        self.socket: aiohttp.ClientWebSocketResponse | None = None
        self.epoch: str | None = None
        self.next_epoch = ""
        self.seq = 0
        self.unanswered: dict[str, str] = {}  # ref: text
        self.reload: dict[int, Any] | None = None  # what came while history is on its way
        self.waiting: set[asyncio.Task[None]] = set()
        self.no_more_lines = False
        self.failures = 0
        self.restart_window = 5.0

    async def say(self, type: str, **fields: Any) -> None:
        if self.socket is not None:
            with suppress(ConnectionError, aiohttp.ClientError):  # it is said again on return
                await self.socket.send_json({"type": type, **fields}, dumps=UTF8)

    async def type(self, lines: AsyncIterator[str]) -> None:
        async for line in lines:
            ref = str(uuid.uuid4())
            self.unanswered[ref] = line
            await self.say("send", ref=ref, text=line)
        self.no_more_lines = True
        await self.leave_if_done()

    async def again(self, ref: str, wait: float) -> None:
        """Say it again after a while. Meanwhile what comes is taken: else the phone would ring."""
        await asyncio.sleep(wait)
        if ref in self.unanswered:
            await self.say("send", ref=ref, text=self.unanswered[ref])

    async def leave_if_done(self) -> None:
        if self.no_more_lines and not self.unanswered:
            await self.say("bye")

    async def follow(self, socket: aiohttp.ClientWebSocketResponse) -> int | None:
        """One connection, from hello to its close code."""
        resume = {"resume": {"epoch": self.epoch, "seq": self.seq}} if self.epoch else {}
        await socket.send_json({"type": "hello", "token": self.token, **resume})
        async for incoming in socket:
            frame = incoming.json() if incoming.type is aiohttp.WSMsgType.TEXT else {}
            take = getattr(self, f"on_{frame.get('type')}", None)
            if take is not None:  # a frame that is not known is passed over
                await take(frame, socket)
        self.socket = None
        return socket.close_code

    async def on_welcome(self, welcome: Any, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.failures = 0
        self.restart_window = welcome["limits"]["restart_window"]
        self.socket = socket
        self.reload = None
        self.next_epoch = welcome["epoch"]
        if self.epoch is None:  # everything after the read mark follows, the newest 500 at most
            self.epoch = self.next_epoch
            self.seq = max(welcome["read_seq"], welcome["seq"] - welcome["limits"]["resume"])
        elif not welcome["resumed"]:
            self.epoch, self.seq, self.reload = None, 0, {}
            await self.say("history", ref="reload")
        for ref, text in list(self.unanswered.items()):
            await self.say("send", ref=ref, text=text)
        await self.leave_if_done()

    async def on_message(self, message: Any, _: object = None) -> None:
        if self.reload is not None:
            self.reload[message["seq"]] = message
        elif message["seq"] > self.seq:
            self.seq = message["seq"]
            await self.say("ack", seq=self.seq)
            self.show(f"{message['from'].get('name', message['from']['id'])}: {message['text']}")
            await self.say("read", seq=self.seq)

    async def on_sent(self, sent: Any, _: object) -> None:
        self.unanswered.pop(sent["ref"], None)
        if self.reload is None:
            self.seq = max(self.seq, sent["seq"])
        await self.leave_if_done()

    async def on_history(self, history: Any, _: object) -> None:
        messages = {message["seq"]: message for message in history["messages"]}
        messages |= self.reload or {}
        self.epoch, self.reload = self.next_epoch, None
        for seq in sorted(messages):
            await self.on_message(messages[seq])

    async def on_error(self, error: Any, socket: aiohttp.ClientWebSocketResponse) -> None:
        text = self.unanswered.get(error.get("ref"))
        if text is not None and error["code"] in ("rate_limited", "unavailable"):
            again = asyncio.create_task(self.again(error["ref"], error.get("retry_after", 1.0)))
            self.waiting.add(again)
            again.add_done_callback(self.waiting.discard)
        else:
            self.unanswered.pop(error.get("ref"), None)
            self.show(f"error: {error['code']}: {error['message']}")
            await self.leave_if_done()
            if error.get("ref") == "reload":
                await socket.close(code=1001)  # come back and begin anew


async def converse(url: str, token: str, lines: AsyncIterator[str], show: Show) -> int:
    """Hold a conversation until `lines` end or the server says stay away; the last close code."""
    it = Conversation(token, show)
    typing = asyncio.create_task(it.type(lines))
    try:
        async with aiohttp.ClientSession() as http:
            while True:
                code = None
                with suppress(aiohttp.ClientError, OSError):
                    async with http.ws_connect(url, heartbeat=20.0) as socket:
                        code = await it.follow(socket)
                if code in (1000, 1009) or (code is not None and 4500 <= code <= 4999):
                    return code
                it.failures += 1
                wait = min(30.0, 2.0 ** (it.failures - 1))
                await asyncio.sleep(random.uniform(0, it.restart_window if code == 1012 else wait))
    finally:
        tasks = {typing, *it.waiting}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def typed() -> AsyncIterator[str]:
    """The lines of stdin that are not empty."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        if text := line.decode(errors="replace").strip():
            yield text


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m examples.wire_client ws://HOST:PORT/v1/chat TOKEN")
    url, token = sys.argv[1:]
    code = asyncio.run(converse(url, token, typed(), print))
    sys.exit(0 if code == 1000 else f"the server closed with {code}")
