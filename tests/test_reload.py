"""A configuration that changes under a running gateway: a real process, its file, and SIGHUP."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from aiohttp import web

from gateway import auth
from gateway.config.values import Secret
from gateway.protocol import Role
from tests.faults.process import ROOMY, Process, process
from tests.running import PATIENCE, QUICK, SECRET, Backend, Call, backend, change

RELOADED = "configuration reloaded"
REFUSED = "the configuration was not reloaded"
NEW_SECRET = "quite-another-secret-of-more-than-32-bytes"


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[tuple[Process, Backend]]:
    async with backend() as it, process(directory, it, delivery=QUICK, tenants=("acme",)) as run:
        await run.ready()
        yield run, it


def edit(directory: Path, change: Callable[[str], str]) -> None:
    path = directory / "ringback.toml"
    before = path.read_text()
    assert change(before) != before
    path.write_text(change(before))


async def hang_up(run: Process, says: str) -> str:
    """SIGHUP, and the line that the gateway then says."""
    so_far = len(run.log)
    run.signal(signal.SIGHUP)
    async with asyncio.timeout(PATIENCE):
        while True:
            lines = [line for line in run.log[so_far:].splitlines(True) if says in line]
            if lines and lines[0].endswith("\n"):
                return lines[0]
            assert run.child.returncode is None, run.log
            await asyncio.sleep(0.01)


async def pushed(run: Process, seq: int, customer: str = "c-42") -> None:
    """Wait until the message is pushed: another process's commits can only be asked for."""
    async with asyncio.timeout(PATIENCE):
        while (await run.outcome(seq, customer))["outcome"] != "pushed":
            await asyncio.sleep(0.02)


async def test_a_new_credential_is_taken_up_on_sighup_and_again_from_its_file(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (run, it):
        await run.register()
        await run.write()
        assert (await it.take()).body["authToken"] == "backend-auth-token"
        (tmp_path / "token").write_text("second-token")
        edit(
            tmp_path,
            lambda text: text.replace(
                'auth_token = "backend-auth-token"', 'auth_token_file = "token"'
            ),
        )
        await hang_up(run, RELOADED)
        await run.write()
        assert (await it.take()).body["authToken"] == "second-token"
        (tmp_path / "token").write_text("third-token")
        line = await hang_up(run, RELOADED)
        assert "acme" in line
        await run.write()
        assert (await it.take()).body["authToken"] == "third-token"
        for secret in ("second-token", "third-token"):
            assert secret not in run.log


async def test_a_configuration_that_is_wrong_is_one_line_and_changes_nothing(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (run, it):
        await run.register()
        edit(
            tmp_path,
            lambda text: text.replace("backend-auth-token", "new-token").replace(
                "signing_secret", "signing_key"
            ),
        )
        line = await hang_up(run, REFUSED)
        assert "tenants.acme.push.signing_key: is not a known key" in line
        assert "Traceback" not in run.log
        await run.write()
        assert (await it.take()).body["authToken"] == "backend-auth-token"
        edit(tmp_path, lambda text: text.replace("signing_key", "signing_secret"))
        await hang_up(run, RELOADED)
        await run.write()
        assert (await it.take()).body["authToken"] == "new-token"


async def test_a_ring_that_waits_for_a_right_setting_goes_out_under_its_id_after_sighup(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (run, it):

        async def judge(call: Call) -> web.StreamResponse:
            known = call.body["authToken"] == "the-right-token"
            return web.Response(status=200 if known else 401)

        it.otherwise = judge
        await run.register()
        seq = await run.write()
        refused = await it.take()
        edit(tmp_path, lambda text: text.replace("backend-auth-token", "the-right-token"))
        await hang_up(run, RELOADED)
        await pushed(run, seq)
        accepted = it.calls[-1]
        assert accepted.status == 200
        assert accepted.headers["webhook-id"] == refused.headers["webhook-id"]
        assert accepted.body["payload"] == refused.body["payload"]


async def test_the_keys_that_tokens_are_checked_with_are_taken_up_too(tmp_path: Path) -> None:
    async with served(tmp_path) as (run, _):
        path = "/v1/me/status"
        assert (await run.call("GET", path, Role.CUSTOMER, "c-42"))[0] == 200
        edit(tmp_path, lambda text: text.replace(SECRET, NEW_SECRET))
        await hang_up(run, RELOADED)
        assert (await run.call("GET", path, Role.CUSTOMER, "c-42"))[0] == 401


async def test_a_change_of_the_secret_by_its_steps_refuses_nobody(tmp_path: Path) -> None:
    """With one secret alone everybody whose app came back in between was told to stay away."""
    async with backend() as it, process(tmp_path, it, delivery=QUICK, limits=ROOMY) as run:
        acme = run.gateway.config.tenants["acme"]
        renewed = msgspec.structs.replace(acme.auth, secret=Secret(NEW_SECRET))
        configs = {
            "old": run.gateway.config,
            "new": change(
                run.gateway.config, tenants={"acme": msgspec.structs.replace(acme, auth=renewed)}
            ),
        }
        signed_with, over = ["old"], False
        came, welcomed = Counter[str](), Counter[str]()

        async def come_and_go(number: int) -> None:
            while not over:
                which = signed_with[number % len(signed_with)]
                came[which] += 1
                wire = await run.raw("/v1/chat")
                who = Role.CUSTOMER, f"c-{number}"
                await wire.send("hello", token=auth.issue(configs[which], "acme", *who, ttl=600.0))
                await wire.take("welcome")
                welcomed[which] += 1
                await wire.send("bye")

        async def more_of(which: str) -> None:
            upto = welcomed[which] + 10
            while welcomed[which] < upto:
                assert not any(client.done() for client in clients), run.log
                await asyncio.sleep(0.01)

        async def all_of(which: str) -> None:
            while welcomed[which] < came[which]:
                await asyncio.sleep(0.01)

        clients = [asyncio.create_task(come_and_go(number)) for number in range(8)]
        await more_of("old")
        both = f'secret = "{NEW_SECRET}"\nprevious_secret = "{SECRET}"'
        edit(tmp_path, lambda text: text.replace(f'secret = "{SECRET}"', both))
        await hang_up(run, RELOADED)
        await more_of("old")
        signed_with.append("new")
        await more_of("new")
        signed_with.remove("old")
        await all_of("old")
        edit(tmp_path, lambda text: text.replace(f'previous_secret = "{SECRET}"', ""))
        await hang_up(run, RELOADED)
        await more_of("new")
        over = True
        await asyncio.gather(*clients)
        assert (await run.call("GET", "/v1/me/status", Role.CUSTOMER, "c-42"))[0] == 401
        assert SECRET not in run.log
        assert NEW_SECRET not in run.log


async def test_a_call_that_is_out_by_the_old_settings_may_end_when_a_stop_follows(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (run, it):
        await run.register()

        async def slowly(call: Call) -> web.StreamResponse:
            await asyncio.sleep(4.0)
            return web.Response()

        it.answers = [slowly]
        await run.write()
        await it.take()
        edit(
            tmp_path,
            lambda text: text.replace(
                "auth_token =", "connect_timeout = 1.0\ntimeout = 1.0\nauth_token ="
            ),
        )
        await hang_up(run, RELOADED)
        assert await run.stop() == 0
        assert it.calls[0].status == 200
        assert "cut calls off" not in run.log


async def test_what_needs_a_restart_is_named_and_stays(tmp_path: Path) -> None:
    async with served(tmp_path) as (run, it):
        await run.register()
        edit(tmp_path, lambda text: text.replace("//app.acme", "//web.acme"))
        line = await hang_up(run, "need a restart")
        assert "tenants.acme.origins" in line
        await run.write()
        await it.take()


async def test_any_number_of_sighups_under_load_lose_and_double_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as (run, it):
        for number in range(20):
            await run.register(f"c-{number}", f"phone-{number}", f"token-{number}")
        writing = [asyncio.ensure_future(run.write(f"c-{number}")) for number in range(20)]
        for _ in range(20):
            run.signal(signal.SIGHUP)
            await asyncio.sleep(0)
        seqs = await asyncio.gather(*writing)
        for number, seq in enumerate(seqs):
            await pushed(run, seq, f"c-{number}")
        assert len({call.headers["webhook-id"] for call in it.calls}) == len(it.calls) == 20
