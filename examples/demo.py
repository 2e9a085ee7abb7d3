"""Ringback's story, played live: `make demo`. Every step asserts what it claims.

A real gateway and a real customer backend run, each in its own process; the phones, the agent's
desk and a network between them, which can fail, are here. `Story` is the part to read: how an app,
an agent and a company's server use Ringback, one method per scene. The processes, the network and
the timeline are in `examples/stage.py`; the backend is `ringback backend`.

`make demo ARGS=--serve` leaves everything running afterwards, with everyday timeouts, to try by
hand; `--web` serves a page to play with instead (`examples/webdemo.py`). Exit code: 0 if all was as
it should be, 1 with one clear line if not, 130 if it was ended before.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from examples import webdemo
from examples.stage import (
    AT_MOST,
    CAROLS_TOKEN,
    EVERYDAY,
    FAILURES,
    FIRST_TOKEN,
    QUICK,
    SECOND_TOKEN,
    DemoFailed,
    Stage,
    Timeline,
)
from gateway import why
from gateway.client import AgentClient, AgentSent, CustomerClient, Message
from gateway.protocol import Role, Route, SessionState, timestamp
from storage.records import Outcome, fingerprint


class Story:
    """Alice, Bob and Carol are customers of the company acme; Ann answers them."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.backend = stage.backend
        self.show = stage.show
        self.expected: list[tuple[AgentSent | Posted, Outcome, str]] = []
        self.ann = AgentClient(
            stage.gateway.chat_url("/v1/agent"), stage.token(Role.AGENT, "ann", "Ann")
        )
        # Alice's phone reaches the gateway through a network that will fail.
        self.phone = self.customer("alice", stage.network.port, installation="phone-1")

    async def play(self) -> None:
        scenes = (
            self.an_app_registers_and_an_agent_connects,
            self.in_chat,
            self.in_the_background,
            self.the_network_drops,
            self.alice_comes_back,
            self.the_device_token_changes,
            self.somebody_else_signs_in,
            self.the_gateway_is_killed,
            self.a_proactive_message,
        )
        for number, scene in enumerate(scenes, 1):
            self.show.headline(number, (scene.__doc__ or "").splitlines()[0])
            await scene()

    async def an_app_registers_and_an_agent_connects(self) -> None:
        """A customer's app registers its device token at start; an agent connects."""
        await self.register("alice", "phone-1", FIRST_TOKEN)
        await self.ann.start()
        opened = await self.ann.open("alice")
        self.show.line("agent", "Ann is connected and opens the conversation with alice")
        self.check(opened.devices == 1 and not opened.in_chat, "she sees: one device, not in chat")

    async def in_chat(self) -> None:
        """In chat: messages arrive over the socket, and the backend gets nothing."""
        self.show.line("alice", "opens the chat: a WebSocket, and a hello that says active")
        await self.phone.start()
        await self.ann.wait_for(_is("presence", customer="alice", in_chat=True))
        for text in ("Hello, how can I help?", "Is it about your order?"):
            sent = await self.send("alice", text)
            self.check(sent.route is Route.SOCKET, f"it went to the socket ({sent.reason})")
            await self.receipt(sent, "delivered")
            self.expect(sent, Outcome.ACKED, "in_chat")
        await self.read(self.phone, "alice", sent.seq)
        self.check(not self.backend.rings, "the backend was called 0 times")

    async def in_the_background(self) -> None:
        """In the background: a message rings; what comes while the backend is slow rings once."""
        await self.phone.set_state(SessionState.BACKGROUND)
        self.show.line("alice", "puts the app in the background: connected, but nobody is looking")
        await self.backend.behave("hang")
        first = await self.send("alice", "Your parcel left Hamburg today.")
        ring = await self.backend.next_ring()
        self.check(first.route is Route.PUSH and ring.unread == 1, "it rang, unread 1")
        self.show.line("backend", "is slow: it has not answered this ring yet")
        await self.send("alice", "It should arrive on Thursday.")
        last = await self.send("alice", "Shall I send you the tracking link?")
        await self.backend.behave("ok")
        ring = await self.backend.next_ring()
        self.check(ring.unread == 3 and ring.seq == last.seq, "one ring for both, unread 3")
        await self.receipt(last, "pushed")
        self.check(len(self.backend.rings) == 2, "three messages, two calls")
        for seq in range(first.seq, last.seq + 1):
            self.expect(Posted("alice", seq), Outcome.PUSHED, "not_in_chat")

    async def the_network_drops(self) -> None:
        """The network drops without a close: at the ack timeout the messages become a push."""
        await self.phone.set_state(SessionState.ACTIVE)
        self.show.line("alice", "opens the chat again")
        await self.read(self.phone, "alice", self.phone.seq)
        self.stage.network.blackhole()
        self.show.line("network", "swallows everything; both ends believe that they are connected")
        first = await self.send("alice", "Are you still there?")
        last = await self.send("alice", "The link is in your mail.")
        self.check(first.route is Route.SOCKET, "to the gateway she is still in chat")
        ring = await self.backend.next_ring()
        took = ring.at - datetime.fromisoformat(first.at).timestamp()
        late = took - QUICK["ack_timeout"]
        self.check(
            0.0 <= late <= AT_MOST,
            f"from commit to push {took * 1000:.0f} ms: the ack timeout of "
            f"{QUICK['ack_timeout'] * 1000:.0f} ms and {late * 1000:.0f} ms more",
        )
        self.check(ring.unread == 2 and ring.seq == last.seq, "one ring for both, unread 2")
        await self.receipt(last, "pushed")
        self.expect(first, Outcome.PUSHED, "ack_timeout")
        self.expect(last, Outcome.PUSHED, "ack_timeout")

    async def alice_comes_back(self) -> None:
        """She comes back: what she missed is replayed in order, and reading clears the badge."""
        held = self.phone.seq
        self.stage.network.heal()
        self.show.line("network", "is back; the dead connection is reset, her app reconnects")
        await self.phone.wait_message(held + 2)
        seqs = [message.seq for message in self.phone.messages]
        self.check(seqs == list(range(1, held + 3)), f"she holds 1 to {held + 2}, with no gap")

        mark = self.phone.frames_seen
        browser = self.customer("alice", self.stage.gateway.ports["chat"], where="browser")
        self.show.line("alice", "opens the chat in a browser too, and reads there")
        async with browser:
            await self.read(browser, "alice", held + 2)
        await self.phone.wait_for(_is("status", unread=0), since=mark)
        self.check(True, "her phone's app is told: unread 0")
        ring = await self.backend.next_ring()
        silent = ring.kind == "badge" and ring.text is None
        self.check(silent and ring.badge == 0, "a silent ring sets the phone's badge to 0")

    async def the_device_token_changes(self) -> None:
        """The device token changes: the old one is never called again."""
        await self.register("alice", "phone-1", SECOND_TOKEN)
        self.stage.old_token_until = len(self.backend.rings)
        await self.phone.set_state(SessionState.BACKGROUND)
        self.show.line("alice", "puts the app in the background")
        sent = await self.send("alice", "Anything else?")
        ring = await self.backend.next_ring()
        renewed = ring.device == fingerprint(SECOND_TOKEN)
        self.check(renewed and ring.unread == 1, "it rang under the new token, unread 1")
        await self.receipt(sent, "pushed")
        self.expect(sent, Outcome.PUSHED, "not_in_chat")

    async def somebody_else_signs_in(self) -> None:
        """Bob signs in on the same phone: Alice's messages ring it no more."""
        await self.phone.bye()
        self.show.line("alice", "leaves, without signing out")
        await self.register("bob", "phone-1", SECOND_TOKEN)
        await self.ann.open("bob")
        sent = await self.send("alice", "This is for Alice only.")
        self.check(sent.route is Route.NONE, f"there is nowhere to send it ({sent.reason})")
        await self.receipt(sent, "undeliverable")
        self.expect(sent, Outcome.UNDELIVERABLE, "no_device")
        sent = await self.send("bob", "Welcome, Bob!")
        ring = await self.backend.next_ring()
        self.check(ring.customer == "bob" and ring.unread == 1, "the phone rings for Bob, unread 1")
        await self.receipt(sent, "pushed")
        self.expect(sent, Outcome.PUSHED, "not_in_chat")

    async def the_gateway_is_killed(self) -> None:
        """kill -9 between commit and push: after a restart the push still goes out, once."""
        app = self.customer("bob", self.stage.gateway.ports["chat"], installation="phone-1")
        self.show.line("bob", "opens the chat")
        await app.start()
        await self.read(app, "bob", 1)
        mark = self.ann.frames_seen
        await app.abort()
        await self.ann.wait_for(_is("presence", customer="bob", in_chat=False), since=mark)
        grace = f"{QUICK['disconnect_grace']:g} s"
        self.show.line("network", f"Bob's connection breaks; he has a grace of {grace} to be back")
        sent = await self.send("bob", "Your refund is on its way.")
        self.check(sent.route is Route.PUSH, "committed, to be pushed when the grace is over")
        calls = len(self.backend.rings)
        await self.stage.gateway.kill()
        self.check(len(self.backend.rings) == calls, "the gateway is dead, and nothing had rung")
        mark = self.ann.frames_seen
        restarted = time.time()
        await self.stage.gateway.start(QUICK)
        ring = await self.backend.next_ring()
        self.check((ring.customer, ring.seq) == ("bob", sent.seq), "it rang after the restart")
        # The receipt may have come before Ann's desk was connected again, or after.
        await self.ann.wait_for(_is("conversation", customer="bob"), since=mark)
        if (await self.stage.told("bob", sent.seq)).outcome is not Outcome.PUSHED:
            await self.receipt(sent, "pushed")
        told = why.timeline(await self.stage.told("bob", sent.seq))
        looks = [entry["at"] for entry in told if entry["event"] == "look"]
        attempts = [entry for entry in told if entry["event"] == "attempt"]
        self.check(min(looks) > timestamp(restarted), "nobody had looked at it before the kill")
        self.check(len(attempts) == 1, "one attempt is recorded")
        self.expect(sent, Outcome.PUSHED, "not_in_chat")

    async def a_proactive_message(self) -> None:
        """A proactive message reaches a customer who has no socket."""
        await self.register("carol", "phone-2", CAROLS_TOKEN)
        await self.ann.open("carol")
        self.show.line("crm", "POST /v1/messages: to carol “It ships today.”")
        status, told = await self.stage.call(
            "POST",
            "/v1/messages",
            self.stage.token(Role.SERVICE, "crm"),
            {"customer": "carol", "title": "Your order", "text": "It ships today."},
            {"Idempotency-Key": "order-4711-shipped"},
        )
        self.check(status == 201 and told["route"] == "push", "it is committed, to be pushed")
        sent = Posted("carol", told["seq"])
        ring = await self.backend.next_ring()
        self.check(ring.kind == "proactive" and ring.customer == "carol", "Carol's phone rings")
        await self.receipt(sent, "pushed")
        self.expect(sent, Outcome.PUSHED, "not_in_chat")

    async def leave(self) -> None:
        """Everybody is gone, wherever the story ended."""
        await self.ann.abort()
        await self.phone.abort()

    # What they do

    async def register(self, customer: str, installation: str, device_token: str) -> None:
        """What an app does at every start, and when its device token changes: one HTTP call."""
        status, told = await self.stage.call(
            "PUT",
            f"/v1/devices/{installation}",
            self.stage.token(Role.CUSTOMER, customer),
            {"token": device_token, "platform": "ios"},
        )
        if status != 200:
            raise DemoFailed(f"PUT /v1/devices/{installation} was answered {status}: {told}")
        self.show.line(customer, f"PUT /v1/devices/{installation}: the token {device_token}")

    def customer(
        self, sub: str, port: int, *, installation: str | None = None, where: str = "phone"
    ) -> CustomerClient:
        """A customer's app. It acknowledges what arrives and reconnects by itself."""

        def arrived(message: Message) -> None:
            self.show.line(sub, f"the {where} gets {message.seq} “{message.text}”")

        return CustomerClient(
            f"ws://127.0.0.1:{port}/v1/chat",
            self.stage.token(Role.CUSTOMER, sub),
            installation=installation,
            on_message=arrived,
        )

    async def send(self, customer: str, text: str) -> AgentSent:
        """Ann writes. It returns once the message is on the gateway's disk."""
        sent = await self.ann.send(customer, text)
        self.show.line("agent", f"to {customer}: {sent.seq} “{text}” → {sent.route}")
        return sent

    async def read(self, app: CustomerClient, customer: str, seq: int) -> None:
        """The customer has seen everything up to `seq`; the server says that nothing is unread."""
        await app.wait_message(seq)
        mark = app.frames_seen
        await app.read()
        await app.wait_for(_is("status", read_seq=seq, unread=0), since=mark)
        self.show.line(customer, f"has read up to {seq}; the server says: unread 0")

    async def receipt(self, sent: AgentSent | Posted, state: str) -> None:
        """Ann's desk is told what became of the message."""

        def fits(frame: Mapping[str, Any]) -> bool:
            return (
                _is("receipt", customer=sent.customer, state=state)(frame)
                and frame["from_seq"] <= sent.seq <= frame["seq"]
            )

        frame = await self.ann.wait_for(fits)
        reason = f" ({frame['reason']})" if "reason" in frame else ""
        self.show.line("agent", f"receipt: {sent.customer}'s {sent.seq} {state}{reason}")

    def check(self, good: bool, what: str) -> None:
        self.stage.check(good, what)

    def expect(self, sent: AgentSent | Posted, outcome: Outcome, reason: str) -> None:
        self.expected.append((sent, outcome, reason))


@dataclass(frozen=True, slots=True)
class Posted:
    """Names a message."""

    customer: str
    seq: int


def _is(type: str, **fields: object) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a frame is of this type and has these fields."""
    return lambda frame: (
        frame.get("type") == type and all(frame.get(k) == v for k, v in fields.items())
    )


# The end: what became of every message


async def audit(stage: Stage, story: Story) -> None:
    """The table, from what `ringback why` reads; the conservation law; all calls, at the end."""
    stage.show.headline(None, "What became of every message (ringback why)")
    table = Table("message", "text", "outcome", "reason", "UTC", box=None, padding=(0, 1, 0, 0))
    table.add_column("after", justify="right")
    wrong = []
    for sent, outcome, reason in story.expected:
        told = await stage.told(sent.customer, sent.seq)
        shown, decided = (why.reason(told) or ""), why.decided_at(told)
        if (told.outcome, shown) != (outcome, reason) or decided is None:
            wrong.append(f"{sent.customer}'s {sent.seq}: expected {outcome} ({reason})")
        after = "" if decided is None else f"{(decided - told.message.at) * 1000:,.0f} ms"
        at = "" if decided is None else timestamp(decided)[11:19]
        text = textwrap.shorten(told.message.text, 25, placeholder="…")
        name = f"{sent.customer} {sent.seq}"
        table.add_row(name, text, str(told.outcome), shown, at, after)
    stage.show.table(table)
    stage.check(not wrong, "; ".join(wrong) or "every message has the one outcome that it should")

    count = await stage.counters()
    parts = ("acked", "pushed", "expired", "undeliverable", "pending")
    law = " + ".join(f"{count[name]} {name}" for name in parts)
    stage.check(
        count["accepted"] == sum(count[name] for name in parts) == len(story.expected),
        f"conservation law (/metrics): {count['accepted']} accepted = {law}",
    )
    code = await stage.gateway.process.end()
    stage.check(code == 0, "at SIGTERM the gateway exits with 0: no more calls can come")
    rings = stage.backend.rings
    twice = [id for id, times in Counter(ring.id for ring in rings).items() if times > 1]
    stage.check(not twice, f"{len(rings)} calls in all, none of them twice")
    stage.check(not stage.backend.unseen, "and none but those that the story told of")
    old = [r for r in rings[stage.old_token_until :] if r.device == fingerprint(FIRST_TOKEN)]
    stage.check(not old, "the old device token was never called again")


# By hand


async def leave_running(stage: Stage) -> None:
    """Run on with everyday timeouts until Ctrl-C, and say how to try things by hand."""
    show = stage.show
    show.headline(None, "Running on, with everyday timeouts, until Ctrl-C")
    await stage.gateway.start(EVERYDAY)
    here = Path(sys.executable).parent
    tokens = {
        "CAROL": stage.token(Role.CUSTOMER, "carol"),
        "AGENT": stage.token(Role.AGENT, "ann", "Ann"),
        "SERVICE": stage.token(Role.SERVICE, "crm"),
    }
    variables = stage.directory / "tokens.sh"
    variables.touch(mode=0o600)
    variables.write_text("".join(f"{k}={shlex.quote(v)}\n" for k, v in tokens.items()))
    settings = shlex.quote(str(stage.gateway.config_path))
    http, chat = stage.gateway.url("http"), stage.gateway.chat_url("")
    show.plain(f"""
chat       {chat}/v1/chat (customers), {chat}/v1/agent
HTTP API   {http}/v1
metrics    {stage.gateway.url("admin", "/metrics")}
backend    {stage.backend.url("/ring")}; what it is asked to ring is shown here
config     {stage.gateway.config_path}

{variables.read_text()}
In another terminal, to begin with:

. {shlex.quote(str(variables))}

Ring Carol's phone (after the first 10 s), then ask what became of the message:

curl -sw '\\n' {http}/v1/messages -H "Authorization: Bearer $SERVICE" \\
  -H "Content-Type: application/json" -d '{{"customer": "carol", "text": "By hand"}}'
{here}/ringback why --config {settings} carol 2

Carol's badge, without opening the chat:

curl -sw '\\n' {http}/v1/me/status -H "Authorization: Bearer $CAROL"

Carol in chat (acknowledge what comes with {{"type": "ack", "seq": 2}}, or be rung 5 s later):

echo "{{\\"type\\": \\"hello\\", \\"token\\": \\"$CAROL\\"}}"     # paste this line into
{here}/websockets {chat}/v1/chat

A slow backend, and a quick one again:

curl -sw '\\n' {stage.backend.url("/control")} -d '{{"delay": 3}}'
curl -sw '\\n' {stage.backend.url("/control")} -d '{{"delay": 0}}'
""")
    await stage.gateway.process.ended()
    raise DemoFailed("the gateway ended by itself")


async def in_a_browser(show: Timeline, port: int) -> None:
    """Serve the page to play with until Ctrl-C."""
    async with webdemo.opened(show, port) as (url, looking):
        show.plain(f"\nOpen {url} in a browser; Ctrl-C ends it. What happens is shown here, too.\n")
        await looking


async def main(arguments: argparse.Namespace) -> None:
    """Play the story, then check all of it; raises one of `FAILURES`."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    show = Timeline()
    if arguments.web:
        await in_a_browser(show, arguments.port)
        return
    async with Stage(show) as stage:
        story = Story(stage)
        try:
            await story.play()
            await audit(stage, story)
            show.plain(f"\nAll as it should be, in {show.seconds:.1f} s.")
            if arguments.serve:
                await leave_running(stage)
        except FAILURES:
            for process in (stage.gateway.process, stage.backend.process):
                show.plain(f"\nthe last lines of the {process.name}:")
                show.plain("\n".join(process.last_lines))
            raise
        finally:
            await story.leave()


def run() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="examples.demo", description="Ringback's story, live.")
    parser.add_argument(
        "--serve", action="store_true", help="leave everything running, to try by hand"
    )
    parser.add_argument("--web", action="store_true", help="a page to play with, instead")
    parser.add_argument("--port", type=int, default=0, help="of that page; a free one unless told")
    arguments = parser.parse_args()
    if not 0 <= arguments.port < 65_536:
        parser.error(f"--port {arguments.port}: give 1 to 65535, or leave it out")
    try:
        asyncio.run(main(arguments))
    except FAILURES as error:
        Timeline().failed(f"{type(error).__name__}: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0 if arguments.web or arguments.serve else 130  # those run until somebody ends them
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(run())
