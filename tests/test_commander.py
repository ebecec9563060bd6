"""Commands: what is carried out, once, and what is rejected without a trace in the world but on the trail."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edge.clock import iso
from edge.messages import Topics
from edge.mqtt import LostError, Message
from edge.signing import sign
from edge.store import Store, StoreError
from edge.telemetry import commander
from edge.telemetry.commander import Commander
from edge.telemetry.commands import ARGUMENTS, REASONS, CommandFailed, Result
from tests.fakes import FakeBrokerSession, ManualClock
from tests.peers.ports import LOOPBACK
from tests.signer import KEY, SIGNER

NODE = "0123456789abcdef"
TOPICS = Topics(NODE)


class Box:
    """A commander with a store, and acts that only count."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.done: list[tuple[str, object, str]] = []
        self.session = FakeBrokerSession()
        self.fails = ""
        self.commander = self.another()

    def another(self) -> Commander:
        acts = {kind: self._act(kind) for kind in ARGUMENTS if kind != "update"}
        made = Commander(NODE, TOPICS, (SIGNER,), acts, self.store, self.clock)
        made.report_over(self.session)  # type: ignore[arg-type]
        return made

    def _act(self, kind: str) -> Any:
        async def act(arguments: object, issuer: str) -> Result:
            if self.fails:
                raise CommandFailed(self.fails)
            self.done.append((kind, arguments, issuer))
            return {"deliveries": 3}

        return act

    def payload(self, number: str = "c1", kind: str = "retry", **changes: Any) -> dict[str, Any]:
        expires = iso(self.clock.now() + 600)
        made = {"v": 1, "id": number, "type": kind, "args": {}, "issued_by": "monitor-1", "expires_at": expires}
        return made | changes

    async def give(self, payload: dict[str, Any] | bytes, *, topic: str = "c1", retain: bool = False) -> None:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        await self.commander.take(
            Message(topic=TOPICS.down_command(topic) if topic else LOOPBACK, payload=body, qos=1, retain=retain)
        )
        await self.commander.finish()

    def signed(self, payload: dict[str, Any]) -> dict[str, Any]:
        return payload | {"signature": sign(payload, NODE, KEY)}

    def reports(self, number: str = "c1") -> list[tuple[str, str]]:
        told = [json.loads(body) for body in self.session.on(TOPICS.command(number))]
        return [(one["status"], one.get("reason", "")) for one in told]

    async def events(self) -> list[tuple[object, object, object]]:
        rows = await self.store.events_after(0, 100)
        return [(r.data["id"], r.data["status"], r.data["reason"]) for r in rows if r.code == "COMMAND"]


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    clock = ManualClock()
    store = await Store.open(tmp_path, clock, 1, lambda n: tmp_path / str(n))
    running = asyncio.create_task(store.run())
    yield Box(store, clock)
    store.finish()
    await running
    await store.close()


async def test_a_signed_command_is_carried_out_and_told_step_by_step(box: Box) -> None:
    await box.give(box.signed(box.payload(args={"destination": "pacs"})))
    ((kind, arguments, issuer),) = box.done
    assert (kind, issuer) == ("retry", "monitor-1")
    assert arguments == ARGUMENTS["retry"](destination="pacs")
    assert box.reports() == [("accepted", ""), ("running", ""), ("succeeded", "")]
    assert json.loads(box.session.on(TOPICS.command("c1"))[-1])["result"] == {"deliveries": 3}
    assert all(retain for topic, _, _, retain in box.session.published if topic == TOPICS.command("c1"))
    assert await box.events() == [("c1", "accepted", ""), ("c1", "succeeded", "")]


async def test_a_command_that_fails_says_why(box: Box) -> None:
    box.fails = "UNKNOWN_DESTINATION"
    await box.give(box.signed(box.payload()))
    assert box.reports()[-1] == ("failed", "UNKNOWN_DESTINATION")
    assert (await box.events())[-1] == ("c1", "failed", "UNKNOWN_DESTINATION")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"signature": ""}, "UNSIGNED"),
        ({"signature": "bm9uc2Vuc2U="}, "BAD_SIGNATURE"),
        ({"type": "hold"}, "BAD_SIGNATURE"),
        ({"issued_by": "somebody"}, "UNKNOWN_SIGNER"),
        ({"id": "c2"}, "ID_MISMATCH"),
        ({"more": 1}, "MALFORMED"),
        ({"v": 2}, "MALFORMED"),
    ],
)
async def test_what_was_changed_after_signing_does_nothing(box: Box, change: dict[str, Any], reason: str) -> None:
    await box.give(box.signed(box.payload()) | change)
    assert box.done == []
    assert box.reports() == [("rejected", reason)]
    assert [e[1:] for e in await box.events()] == [("rejected", reason)]
    assert reason in REASONS
    assert not any(retain for _, _, _, retain in box.session.published), "a forger leaves nothing at the broker"


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"type": "shell"}, "rejected", "UNKNOWN_TYPE"),
        ({"type": "update"}, "rejected", "UNSUPPORTED"),
        ({"type": "pause"}, "rejected", "BAD_ARGUMENTS"),
        ({"type": "identify", "args": {"seconds": 61}}, "rejected", "BAD_ARGUMENTS"),
        ({"args": {"path": "/etc/passwd"}}, "rejected", "BAD_ARGUMENTS"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expired", "EXPIRED"),
        ({"expires_at": "2099-01-01T00:00:00Z"}, "rejected", "EXPIRES_TOO_LATE"),
        ({"expires_at": "2027-99-99T00:00:00Z"}, "rejected", "MALFORMED"),
    ],
)
async def test_a_good_signature_is_not_enough(box: Box, change: dict[str, Any], status: str, reason: str) -> None:
    await box.give(box.signed(box.payload(**change)))
    assert box.done == []
    assert box.reports() == [(status, reason)]


async def test_a_command_for_another_box_is_worth_nothing_here(box: Box) -> None:
    payload = box.payload()
    await box.give(payload | {"signature": sign(payload, "another", KEY)})
    assert box.done == []
    assert box.reports() == [("rejected", "BAD_SIGNATURE")]


async def test_a_retained_one_is_rejected_and_an_empty_one_is_nothing(box: Box) -> None:
    await box.give(box.signed(box.payload()), retain=True)
    assert box.reports() == [("rejected", "RETAINED")]
    await box.give(b"", retain=True)
    assert len(box.session.published) == 1
    assert box.done == []


async def test_a_replayed_one_is_rejected_by_another_run(box: Box) -> None:
    command = box.signed(box.payload())
    await box.give(command)
    box.commander = box.another()
    await box.give(command)
    assert len(box.done) == 1
    assert box.reports()[3:] == [("rejected", "REPLAYED")]


async def test_the_same_message_once_more_does_nothing_and_repeats_what_became_of_it(box: Box) -> None:
    command = box.signed(box.payload())
    await box.give(command)
    await box.give(command)
    assert len(box.done) == 1
    assert box.reports() == [("accepted", ""), ("running", ""), ("succeeded", ""), ("succeeded", "")]
    assert json.loads(box.session.on(TOPICS.command("c1"))[-1])["result"] == {"deliveries": 3}
    assert (await box.events())[-1] == ("c1", "rejected", "REPLAYED"), "it is on the trail"


async def test_another_command_under_an_id_that_was_taken_is_rejected(box: Box) -> None:
    await box.give(box.signed(box.payload()))
    await box.give(box.signed(box.payload(args={"destination": "archive"})))
    assert len(box.done) == 1
    assert box.reports()[-1] == ("rejected", "REPLAYED")


async def test_a_duplicate_of_what_goes_on_says_nothing(box: Box) -> None:
    goes_on = asyncio.Event()

    async def act(_arguments: object, _issuer: str) -> Result:
        await goes_on.wait()
        return {}

    box.commander._acts = {"retry": act}
    message = Message(TOPICS.down_command("c1"), json.dumps(box.signed(box.payload())).encode(), 1, retain=False)
    await box.commander.take(message)
    await box.commander.take(message)
    goes_on.set()
    await box.commander.finish()
    assert box.reports() == [("accepted", ""), ("running", ""), ("succeeded", "")]


async def test_how_many_are_known_by_their_content_is_bounded(box: Box) -> None:
    for number in range(2 * commander.MOST_KNOWN):
        await box.give(box.signed(box.payload(f"c{number}")), topic=f"c{number}")
    assert len(box.commander._taken) == commander.MOST_KNOWN


async def test_without_a_clock_to_believe_nothing_is_taken(box: Box) -> None:
    box.clock.believed = False
    await box.give(box.signed(box.payload()))
    assert box.reports() == [("rejected", "CLOCK_UNTRUSTED")]
    assert box.done == []


@pytest.mark.parametrize("body", [b"\xff", b"[]", b"null", b"[" * 9000, b"{" + b" " * 20_000 + b"}"])
async def test_nonsense_is_rejected(box: Box, body: bytes) -> None:
    await box.give(body)
    assert box.reports() == [("rejected", "MALFORMED")]


@pytest.mark.parametrize("topic", ["c1/../../x", "c 1", "x" * 65, "Meier^Hans"])
async def test_a_topic_that_is_no_id_is_told_without_it(box: Box, topic: str) -> None:
    await box.give(box.signed(box.payload()), topic=topic)
    assert box.session.published == []
    assert await box.events() == [("", "rejected", "MALFORMED")]


async def test_a_flood_of_forgeries_is_told_ten_times_a_minute(box: Box) -> None:
    for number in range(50):
        await box.give(box.payload(f"c{number}"), topic=f"c{number}")
    assert len(await box.events()) == 10
    assert len(box.session.published) == 10
    box.clock.pass_time(61)
    await box.give(box.payload("later"), topic="later")
    assert len(await box.events()) == 11


async def test_what_the_last_run_had_begun_is_told_as_interrupted_and_a_restart_as_done(box: Box) -> None:
    expires = box.clock.now() + 600
    assert await box.store.begin_command("a", "retry", "monitor-1", expires)
    assert await box.store.begin_command("b", "restart", "monitor-1", expires)
    await box.commander.recover()
    await box.commander.attend(box.session)  # type: ignore[arg-type]
    assert box.reports("a") == [("failed", "INTERRUPTED")]
    assert box.reports("b") == [("succeeded", "")]


async def test_what_has_long_expired_is_forgotten_and_cleared_from_the_broker(box: Box) -> None:
    await box.give(box.signed(box.payload()))
    box.clock.pass_time(3 * 86_400)
    await box.commander.attend(box.session)  # type: ignore[arg-type]
    assert box.session.published[-1] == (TOPICS.command("c1"), b"", 1, True)
    assert await box.store.command("c1") is None


async def test_what_could_not_be_cleared_from_the_broker_is_not_forgotten(box: Box) -> None:
    await box.give(box.signed(box.payload()))
    box.clock.pass_time(3 * 86_400)
    box.session.lost = True
    with pytest.raises(LostError):
        await box.commander.attend(box.session)  # type: ignore[arg-type]
    assert await box.store.command("c1") is not None
    box.session.lost = False
    await box.commander.attend(box.session)  # type: ignore[arg-type]
    assert box.session.published[-1] == (TOPICS.command("c1"), b"", 1, True)
    assert await box.store.command("c1") is None


async def test_a_connection_that_holds_for_days_clears_what_has_expired_too(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commander, "TIDY", 0.01)
    await box.give(box.signed(box.payload()))
    serving = asyncio.create_task(box.commander.serve(box.session))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    box.clock.pass_time(3 * 86_400)
    async with asyncio.timeout(10):
        while await box.store.command("c1") is not None:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.005)
    assert box.session.published[-1] == (TOPICS.command("c1"), b"", 1, True)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_a_store_that_cannot_be_written_ends_no_connection_and_what_was_done_is_written_later(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commander, "RETRY", 0.01)

    async def fails(*_: object, **__: object) -> None:
        raise StoreError("The database can only be read at this moment.")

    with monkeypatch.context() as broken:
        for verb in ("finish_command", "forget_commands"):
            broken.setattr(box.store, verb, fails)
        await box.give(box.signed(box.payload()))
        assert box.reports()[-1] == ("succeeded", "")
        serving = asyncio.create_task(box.commander.serve(box.session))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        assert not serving.done()
    async with asyncio.timeout(10):
        while await box.store.unfinished_commands():  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.005)
    assert (await box.events())[-1] == ("c1", "succeeded", "")
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_a_command_that_cannot_be_put_on_record_is_not_carried_out(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object, **__: object) -> bool:
        raise StoreError("The database can only be read at this moment.")

    monkeypatch.setattr(box.store, "begin_command", fails)
    await box.give(box.signed(box.payload()))
    assert box.done == []
    assert box.reports() == [("rejected", "STORE")]


def test_every_reason_that_can_be_told_is_described() -> None:
    assert all(text and not text.endswith(".") for text in REASONS.values())
