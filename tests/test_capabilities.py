"""What a destination takes, kept in the store; what was sent instead, on the trail; both as people see them."""

import asyncio
import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from edge.cli.capabilities import capabilities as command
from edge.cli.reads import trace
from edge.dicom.uids import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from edge.evidence import Evidence
from edge.model import Kind, Rendering
from edge.states import DeliveryState
from edge.store import Choice, Parcel, Settlement
from edge.store.capabilities import MOST
from tests.appliance import Edge, dimse
from tests.peers.objects import ct
from tests.peers.ports import wait_for
from tests.peers.raw import RawReceiver, RawSender
from tests.stored import Stored, instance

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT: Final = Kind(CT, EXPLICIT_LITTLE)
IMPLICIT: Final = Kind(CT, IMPLICIT_LITTLE)


async def invoke(shown: click.Command, arguments: list[str]) -> Result:
    """As a process of its own: it has a loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, shown, arguments)


def config(folder: Path) -> Path:
    path = folder / "edge.toml"
    text = f'[storage]\npath = "{folder}"\n' + '[[destination]]\nname = "pacs"\ntype = "folder"\npath = "/nowhere"\n'
    path.write_text(text, encoding="utf-8")
    return path


# the table


async def test_the_last_answer_stays_over_a_restart_with_its_age(tmp_path: Path) -> None:
    async with Stored(tmp_path) as world:
        await world.store.keep_capabilities("pacs", {EXPLICIT: True, IMPLICIT: True})
        await world.store.keep_capabilities("pacs", {EXPLICIT: False})
        await world.store.keep_capabilities("cloud", {EXPLICIT: True})
        await world.store.tick(500.0)
        await world.restart()
        found = await world.store.capabilities("pacs")
        assert [(one.kind, one.taken, one.age) for one in found] == [(IMPLICIT, True, 500.0), (EXPLICIT, False, 500.0)]
        assert found[0].at == world.clock.now()


async def test_of_too_many_answers_the_latest_stay(tmp_path: Path) -> None:
    async with Stored(tmp_path) as world:
        await world.store.keep_capabilities("pacs", {Kind(f"1.2.{n}", EXPLICIT_LITTLE): True for n in range(MOST)})
        await world.store.tick(1.0)
        await world.store.keep_capabilities("pacs", {EXPLICIT: True})
        found = await world.store.capabilities("pacs")
    assert len(found) == MOST
    assert EXPLICIT in {one.kind for one in found}


# the trail


def sent(parcel: Parcel, rendering: Rendering | None) -> Settlement:
    return Settlement(
        delivery=parcel.delivery,
        instance=parcel.instance,
        destination="pacs",
        state=DeliveryState.ACCEPTED,
        code="0000",
        evidence=Evidence.STORE_SUCCESS,
        rendering=rendering,
    )


async def test_the_receipt_says_what_was_sent_in_place_of_what_is_stored(tmp_path: Path) -> None:
    digest = bytes(range(32))
    async with Stored(tmp_path) as world:
        await world.receive(instance(1), instance(2))
        one, two = await world.store.claim("pacs", 9)
        rendering = Rendering(EXPLICIT_LITTLE, IMPLICIT_LITTLE, digest)
        await world.store.settle([sent(one, rendering), sent(two, None)])
        (first,) = await world.store.reading.trace("1.2.3.1")
        (second,) = await world.store.reading.trace("1.2.3.2")
        assert [step.event for step in first.trail] == ["received", "re-encoded", "accepted"]
        assert (first.trail[1].code, first.trail[1].destination) == (digest.hex(), "pacs")
        (proof,) = first.proofs
        assert (proof.sent_transfer_syntax_uid, proof.sent_sha256) == (IMPLICIT_LITTLE, digest.hex())
        assert proof.evidence == "store-success"
        assert [(p.sent_transfer_syntax_uid, p.sent_sha256) for p in second.proofs] == [("", "")]
        # sent once more, as it is stored
        await world.store.decide("resend", Choice(delivery=one.delivery), who="test")
        (again,) = await world.store.claim("pacs", 9)
        await world.store.settle([sent(again, None)])
        (first,) = await world.store.reading.trace("1.2.3.1")
        assert [p.sent_sha256 for p in first.proofs] == [""]
        # and once more, decompressed
        await world.store.decide("resend", Choice(delivery=one.delivery), who="test")
        (again,) = await world.store.claim("pacs", 9)
        await world.store.settle([sent(again, msgspec.structs.replace(rendering, decompressed=True))])
        (first,) = await world.store.reading.trace("1.2.3.1")
        assert first.trail[-2].event == "decompressed"
        assert [p.sent_sha256 for p in first.proofs] == [digest.hex()]
    said = await invoke(trace, ["1.2.3.1", "--config", str(config(tmp_path))])
    assert said.exit_code == 0
    assert f"re-encoded  pacs {digest.hex()} from {EXPLICIT_LITTLE} to {IMPLICIT_LITTLE}" in said.output


# the command


async def _known(folder: Path) -> None:
    async with Stored(folder) as world:
        await world.store.keep_capabilities("pacs", {EXPLICIT: False, IMPLICIT: True})


async def test_the_command_shows_what_is_taken_and_what_is_refused(tmp_path: Path) -> None:
    await _known(tmp_path)
    shown = await invoke(command, ["pacs", "--config", str(config(tmp_path))])
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert lines[1].split()[0] == "takes"
    assert "CT Image Storage" in lines[1]
    assert "Implicit VR Little Endian" in lines[1]
    assert lines[2].split()[0] == "refuses"
    said = await invoke(command, ["pacs", "--json", "--config", str(config(tmp_path))])
    assert [(row["transfer_syntax_uid"], row["taken"]) for row in json.loads(said.output)] == [
        (IMPLICIT_LITTLE, True),
        (EXPLICIT_LITTLE, False),
    ]


async def test_a_uid_that_is_none_breaks_no_list(tmp_path: Path) -> None:
    async with Stored(tmp_path) as world:
        await world.store.keep_capabilities("pacs", {Kind("1.2[/b]", "1.2.3"): False})
    shown = await invoke(command, ["pacs", "--config", str(config(tmp_path))])
    assert shown.exit_code == 0
    assert shown.output.splitlines()[1].split()[:3] == ["refuses", "1.2[/b]", "1.2.3"]


async def test_the_command_says_what_it_cannot_show(tmp_path: Path) -> None:
    where = str(config(tmp_path))
    nothing = await invoke(command, ["pacs", "--config", where])
    assert nothing.exit_code == 1
    assert "no appliance has run" in nothing.output
    async with Stored(tmp_path):
        pass
    asked = await invoke(command, ["pacs", "--config", where])
    assert (asked.exit_code, asked.output) == (0, "nothing was proposed to pacs yet\n")
    unknown = await invoke(command, ["other", "--config", where])
    assert unknown.exit_code == 2


# the whole appliance


@pytest.mark.rig
def test_a_pacs_that_takes_implicit_vr_alone_has_everything_and_the_receipt_says_how(tmp_path: Path) -> None:
    objects = ct(3)

    def negotiate(_sop_class: str, syntaxes: tuple[str, ...]) -> str | int:
        return next((syntax for syntax in syntaxes if syntax == IMPLICIT_LITTLE), 4)

    with RawReceiver(negotiate=negotiate) as pacs, Edge(tmp_path, dimse("pacs", pacs.port)) as appliance:
        with RawSender(appliance.port) as modality:
            modality.associate([(objects[0].sop_class_uid, [objects[0].transfer_syntax_uid])])
            assert [modality.store(one) for one in objects] == [0] * 3
        received = {each.sop_instance_uid: each for each in pacs.wait(3)}

        def settled() -> bool:
            rows = [appliance.json("trace", one.sop_instance_uid)[0] for one in objects]
            return all(row["deliveries"][0]["state"] == "accepted" for row in rows)

        wait_for(settled, 20, "all to be accepted")
        for one in objects:
            (row,) = appliance.json("trace", one.sop_instance_uid)
            assert row["sha256"] == one.digest.hex()
            (proof,) = row["proofs"]
            assert proof["sent_transfer_syntax_uid"] == IMPLICIT_LITTLE
            assert proof["sent_sha256"] == received[one.sop_instance_uid].digest.hex() != one.digest.hex()
        known = {row["transfer_syntax_uid"]: row["taken"] for row in appliance.json("capabilities", "pacs")}
        assert known == {EXPLICIT_LITTLE: False, IMPLICIT_LITTLE: True}
        (stored,) = (path for path in tmp_path.rglob("*.dcm") if objects[0].digest == _digest(path, objects[0].length))
        assert stored.parent.parent.name == "ready"


def _digest(path: Path, length: int) -> bytes:
    return hashlib.sha256(path.read_bytes()[-length:]).digest()


async def test_the_table_is_added_to_a_store_of_the_version_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.store import schema  # noqa: PLC0415 - its version is turned back

    with monkeypatch.context() as before:
        before.setattr(schema, "MIGRATIONS", tuple(m for m in schema.MIGRATIONS if m is not schema._CAPABILITIES))
        before.setattr(schema, "VERSION", len(schema.MIGRATIONS))
        with closing(sqlite3.connect(tmp_path / "old.sqlite", isolation_level=None)) as raw:
            schema.migrate(raw, len(schema.MIGRATIONS))
            assert raw.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'capability'").fetchone() == (0,)
    with closing(sqlite3.connect(tmp_path / "old.sqlite", isolation_level=None)) as raw:
        schema.migrate(raw)
        assert raw.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'capability'").fetchone() == (1,)
