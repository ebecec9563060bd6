"""What a destination refuses as it is stored goes in another transfer syntax; real PACSs, and scripted ones."""

import asyncio
import errno
import hashlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Final, NoReturn

import msgspec
import numpy as np
import pytest
from pydicom import dcmread

from edge.clock import SystemClock
from edge.config import DicomwebDestination, DimseDestination, Timeouts
from edge.dicom import part10
from edge.dicom.recode import recode
from edge.dicom.stream import File
from edge.dicom.uids import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, LOSSLESS
from edge.forward.capabilities import Book
from edge.forward.decoder import Decoder
from edge.forward.dimse import DimseTransport
from edge.forward.outcome import Accepted, Outcome, Refused, TryLater, Unreachable
from edge.forward.stow import StowTransport
from edge.forward.syntaxes import Syntaxes, others
from edge.forward.transport import Transport
from edge.forward.web import Web
from edge.forward.workshop import Rendition, Workshop
from edge.model import Kind, Need
from edge.spool import Scratch, Syncer
from edge.store import Capability, Parcel
from tests.fakes import ManualClock
from tests.peers.bundled import FOLDER, bundled
from tests.peers.dcmtk import Storescp
from tests.peers.dicomweb import Reply, WebPacs, stored
from tests.peers.ports import LOOPBACK
from tests.peers.receiver import RawReceiver, Received
from tests.test_recode import same

RLE: Final = "1.2.840.10008.1.2.5"
JPEG: Final = "1.2.840.10008.1.2.4.50"
JPEG_LOSSLESS: Final = "1.2.840.10008.1.2.4.70"
DAY: Final = 86_400.0


@pytest.fixture
async def syncer() -> AsyncIterator[Syncer]:
    threads = Syncer()
    yield threads
    threads.close()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    made = Workshop(Scratch(tmp_path_factory.mktemp("scratch")))
    yield made
    made.close()


def parcel(path: Path, number: int = 1) -> Parcel:
    """A file as it lies in the spool."""
    data = path.read_bytes()
    meta = part10.read_meta(data)
    return Parcel(
        delivery=number,
        instance=number,
        kind=Kind(meta.sop_class_uid, meta.transfer_syntax_uid),
        sop_instance_uid=meta.sop_instance_uid,
        length=len(data) - meta.offset,
        offset=meta.offset,
        digest=hashlib.sha256(data[meta.offset :]).digest(),
        calling="CT1",
        strikes=0,
        path=path,
    )


def pacs(port: int) -> DimseDestination:
    return DimseDestination(
        name="pacs", host=LOOPBACK, port=port, ae_title="PACS", timeouts=Timeouts(connect=5.0, response=20.0)
    )


async def send(transport: Transport, *parcels: Parcel) -> list[Outcome]:
    session = await transport.open([Need(p.kind, p.calling) for p in parcels])
    assert not isinstance(session, Unreachable)
    try:
        return [outcome async for _, outcome in session.send(parcels)]
    finally:
        await session.close()


def takes(*syntaxes: str) -> RawReceiver:
    """A PACS of these transfer syntaxes."""

    def negotiate(_sop_class: str, proposed: tuple[str, ...]) -> str | int:
        return next((s for s in proposed if s in syntaxes), 4)

    return RawReceiver(negotiate=negotiate)


# which, in which order


def test_uncompressed_ones_stand_in_for_each_other_and_explicit_vr_comes_first() -> None:
    assert others(EXPLICIT_LITTLE) == (IMPLICIT_LITTLE,)
    assert others(IMPLICIT_LITTLE) == (EXPLICIT_LITTLE,)
    assert others(EXPLICIT_BIG) == others(DEFLATED) == (EXPLICIT_LITTLE, IMPLICIT_LITTLE)


def test_only_what_was_compressed_without_loss_is_decompressed_and_only_where_configured() -> None:
    assert others(RLE) == others(JPEG_LOSSLESS) == ()
    assert others(RLE, decompress=True) == others(JPEG_LOSSLESS, decompress=True) == (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
    assert others(JPEG, decompress=True) == ()


# C-STORE


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "reportsi.dcm", "liver_1frame.dcm"]
)
async def test_a_pacs_that_knows_implicit_vr_alone_gets_the_same_elements_and_pixels(
    name: str, syncer: Syncer, workshop: Workshop, tmp_path: Path
) -> None:
    one = parcel(FOLDER / name)
    with Storescp(tmp_path / "pacs", nodelay=True, extra=["+xi"]) as server:
        (outcome,) = await send(DimseTransport(pacs(server.port), syncer, syntaxes=Syntaxes(workshop)), one)
        assert isinstance(outcome, Accepted)
        (path,) = server.received()
        data = path.read_bytes()
    assert outcome.rendering is not None
    assert (outcome.rendering.stored_as, outcome.rendering.sent_as) == (one.kind.transfer_syntax_uid, IMPLICIT_LITTLE)
    meta = part10.read_meta(data)
    assert meta.transfer_syntax_uid == IMPLICIT_LITTLE
    assert meta.sop_instance_uid == one.sop_instance_uid
    assert hashlib.sha256(data[meta.offset :]).digest() == outcome.rendering.digest
    before, after = dcmread(one.path), dcmread(BytesIO(data))
    same(before, after)
    if "PixelData" in before:
        assert np.array_equal(before.pixel_array, after.pixel_array)


async def test_what_is_taken_as_it_is_stored_goes_so(syncer: Syncer, workshop: Workshop) -> None:
    one = parcel(FOLDER / "CT_small.dcm")
    with takes(EXPLICIT_LITTLE, IMPLICIT_LITTLE) as server:
        (outcome,) = await send(DimseTransport(pacs(server.port), syncer, syntaxes=Syntaxes(workshop)), one)
        assert [r.digest for r in server.received] == [one.digest]
    assert isinstance(outcome, Accepted)
    assert outcome.rendering is None


async def test_explicit_vr_is_preferred_and_what_is_stored_stays(syncer: Syncer, workshop: Workshop) -> None:
    one = parcel(FOLDER / "MR_small_bigendian.dcm")
    before = one.path.read_bytes()
    with takes(EXPLICIT_LITTLE, IMPLICIT_LITTLE) as server:
        (outcome,) = await send(DimseTransport(pacs(server.port), syncer, syntaxes=Syntaxes(workshop)), one)
        (came,) = server.received
    assert isinstance(outcome, Accepted)
    assert outcome.rendering is not None
    assert (came.transfer_syntax_uid, came.digest) == (EXPLICIT_LITTLE, outcome.rendering.digest)
    assert one.path.read_bytes() == before


async def test_what_cannot_be_said_without_doubt_is_held_and_its_neighbours_go(
    syncer: Syncer, workshop: Workshop
) -> None:
    parcels = [parcel(FOLDER / "rtdose_expb.dcm", 1), parcel(FOLDER / "rtdose.dcm", 2)]
    with takes(IMPLICIT_LITTLE) as server:
        held, fine = await send(DimseTransport(pacs(server.port), syncer, syntaxes=Syntaxes(workshop)), *parcels)
        assert len(server.received) == 1
    assert isinstance(held, Refused)
    assert held.code == "NOT_REENCODED"
    assert not held.unsupported
    assert isinstance(fine, Accepted)


async def test_a_file_that_is_not_what_was_received_is_damaged_whatever_else_is_wrong(
    syncer: Syncer, workshop: Workshop, tmp_path: Path
) -> None:
    data = bytearray((FOLDER / "CT_small.dcm").read_bytes())
    good = parcel(FOLDER / "CT_small.dcm")
    with takes(IMPLICIT_LITTLE) as server:
        for at in (len(data) - 400, good.offset + 5):
            spoilt = bytearray(data)
            spoilt[at] ^= 0xFF
            path = tmp_path / f"{at}.dcm"
            path.write_bytes(spoilt)
            bad = msgspec.structs.replace(good, path=path)
            (outcome,) = await send(DimseTransport(pacs(server.port), syncer, syntaxes=Syntaxes(workshop)), bad)
            assert isinstance(outcome, Refused)
            assert outcome.code == "FILE_DAMAGED"
        assert server.received == []


@pytest.mark.parametrize("at", ["open", "pread"])
@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO])
async def test_a_file_that_cannot_be_read_now_is_not_given_up(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, at: str, error: int
) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(f"edge.forward.workshop.os.{at}", fail)
    made = await workshop.render(parcel(FOLDER / "CT_small.dcm"), IMPLICIT_LITTLE)
    monkeypatch.undo()
    assert isinstance(made, TryLater)
    assert made.code == "FILE_UNREADABLE"


async def test_what_came_out_with_another_value_is_never_sent(
    syncer: Syncer, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(source: File, syntax: str, target: str, write: Callable[[bytes], None]) -> bytes:
        return recode(
            source, syntax, target, lambda data: write(data.replace(b"CompressedSamples", b"CompressedSampleZ"))
        )

    monkeypatch.setattr("edge.forward.workshop.recode", wrong)
    with takes(IMPLICIT_LITTLE) as server:
        (outcome,) = await send(
            DimseTransport(pacs(server.port), syncer, syntaxes=Syntaxes(workshop)), parcel(FOLDER / "CT_small.dcm")
        )
        assert server.received == []
    assert isinstance(outcome, Refused)
    assert outcome.detail.endswith("what came out has other values.")


async def test_without_room_for_a_long_one_it_waits_and_a_short_one_goes(syncer: Syncer, tmp_path: Path) -> None:
    full = Workshop(Scratch(tmp_path, keep=1 << 60))
    short = parcel(FOLDER / "CT_small.dcm")
    path = tmp_path / "long.dcm"
    body = bytes(8 << 20)
    path.write_bytes(body)
    digest = hashlib.sha256(body).digest()
    long = msgspec.structs.replace(short, path=path, offset=0, length=len(body), digest=digest)
    with takes(IMPLICIT_LITTLE) as server:
        late, sent = await send(DimseTransport(pacs(server.port), syncer, syntaxes=Syntaxes(full)), long, short)
    full.close()
    assert isinstance(late, TryLater)
    assert late.code == "NO_ROOM_TO_REENCODE"
    assert isinstance(sent, Accepted)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_RLE.dcm"])
async def test_a_disk_that_fills_meanwhile_makes_it_wait(
    name: str, syncer: Syncer, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scratch, "file", lambda _scratch, _most: os.open("/dev/full", os.O_RDWR))
    with takes(IMPLICIT_LITTLE) as server:
        (outcome,) = await send(
            DimseTransport(pacs(server.port), syncer, syntaxes=Syntaxes(workshop, decompress=True)),
            parcel(FOLDER / name),
        )
        assert server.received == []
    assert isinstance(outcome, TryLater)
    assert outcome.code == "NO_ROOM_TO_REENCODE"


async def test_whoever_is_told_to_stop_while_it_is_made_leaves_nothing_open(workshop: Workshop) -> None:
    one = parcel(FOLDER / "CT_small.dcm")
    with await workshop.render(one, IMPLICIT_LITTLE):  # type: ignore[union-attr]
        pass
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a folder of the kernel
    for turns in range(8):
        making = asyncio.create_task(workshop.render(one, IMPLICIT_LITTLE))
        for _ in range(turns):
            await asyncio.sleep(0)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
    await until(lambda: set(os.listdir("/proc/self/fd")) <= before)  # noqa: PTH208


async def test_nothing_is_left_open_or_lying_about(syncer: Syncer, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    workshop = Workshop(Scratch(scratch))
    one = parcel(FOLDER / "CT_small.dcm")
    with takes(IMPLICIT_LITTLE) as server:
        transport = DimseTransport(pacs(server.port), syncer, syntaxes=Syntaxes(workshop))
        await send(transport, one)
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a folder of the kernel
        for _ in range(5):
            await send(transport, one)
        assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208 - the receiver's own socket may linger
    workshop.close()
    assert list(scratch.iterdir()) == []


async def test_an_answer_that_refuses_a_rendering_says_that_it_was_one(syncer: Syncer, workshop: Workshop) -> None:
    def refuse(_: Received) -> int:
        return 0xA900

    with takes(IMPLICIT_LITTLE) as server:
        server.status_for = refuse
        (outcome,) = await send(
            DimseTransport(pacs(server.port), syncer, syntaxes=Syntaxes(workshop)), parcel(FOLDER / "CT_small.dcm")
        )
    assert isinstance(outcome, Refused)
    assert outcome.detail.endswith("It was re-encoded as Implicit VR Little Endian.")


async def test_compressed_objects_are_not_touched_unless_configured(syncer: Syncer, workshop: Workshop) -> None:
    one = parcel(FOLDER / "MR_small_RLE.dcm")
    with takes(IMPLICIT_LITTLE, EXPLICIT_LITTLE) as server:
        (outcome,) = await send(DimseTransport(pacs(server.port), syncer, syntaxes=Syntaxes(workshop)), one)
        assert server.received == []
        assert [c.syntaxes for c in server.requests[0].contexts] == [(RLE,)]
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.unsupported) == ("CONTEXT_REJECTED", True)


# what is remembered


class Kept:
    """A memory over restarts."""

    def __init__(self) -> None:
        self.rows: dict[Kind, bool] = {}
        self.writes = 0
        self.age = 0.0

    async def recall(self) -> list[Capability]:
        return [
            Capability(kind=kind, taken=taken, at=0.0, clock_trusted=True, age=self.age)
            for kind, taken in self.rows.items()
        ]

    async def keep(self, answers: Mapping[Kind, bool]) -> None:
        self.writes += 1
        self.rows |= answers


def proposed(server: RawReceiver, at: int = -1) -> list[str]:
    return [syntax for context in server.requests[at].contexts for syntax in context.syntaxes]


async def test_what_was_refused_is_not_proposed_again_for_a_day_nor_after_a_restart(
    syncer: Syncer, workshop: Workshop
) -> None:
    clock, kept = ManualClock(), Kept()
    one = parcel(FOLDER / "CT_small.dcm")

    def begun() -> DimseTransport:
        return DimseTransport(pacs(server.port), syncer, syntaxes=Syntaxes(workshop, Book(kept, clock)))

    with takes(IMPLICIT_LITTLE) as server:
        transport = begun()
        for expected in ([EXPLICIT_LITTLE, IMPLICIT_LITTLE], [IMPLICIT_LITTLE]):
            (outcome,) = await send(transport, one)
            assert isinstance(outcome, Accepted)
            assert proposed(server) == expected
        transport = begun()
        await send(transport, one)
        assert proposed(server) == [IMPLICIT_LITTLE]
        assert kept.writes == 1, "what is no news is not written"
        clock.seconds += DAY
        await send(transport, one)
        assert proposed(server) == [EXPLICIT_LITTLE, IMPLICIT_LITTLE]


async def test_a_refusal_counts_by_the_time_that_the_box_has_run(syncer: Syncer, workshop: Workshop) -> None:
    kept = Kept()
    kept.rows = {Kind(CT, EXPLICIT_LITTLE): False, Kind(CT, IMPLICIT_LITTLE): True}
    for kept.age, expected in ((DAY - 1, [IMPLICIT_LITTLE]), (DAY + 1, [EXPLICIT_LITTLE, IMPLICIT_LITTLE])):
        with takes(IMPLICIT_LITTLE) as server:
            syntaxes = Syntaxes(workshop, Book(kept, ManualClock()))
            await send(DimseTransport(pacs(server.port), syncer, syntaxes=syntaxes), parcel(FOLDER / "CT_small.dcm"))
            assert proposed(server) == expected


CT: Final = "1.2.840.10008.5.1.4.1.1.2"


async def test_who_takes_something_new_is_asked_for_all_again() -> None:
    book = Book(None, ManualClock())
    explicit, implicit = Kind(CT, EXPLICIT_LITTLE), Kind(CT, IMPLICIT_LITTLE)
    await book.learn({explicit: False, implicit: True})
    assert book.refuses(explicit)
    await book.learn({implicit: True})
    assert book.refuses(explicit)
    await book.learn({Kind("1.2.3", IMPLICIT_LITTLE): True})
    assert not book.refuses(explicit)
    assert book.takes(implicit)


async def test_what_is_known_of_one_destination_is_bounded() -> None:
    book = Book(None, ManualClock())
    for number in range(600):
        await book.learn({Kind(f"1.2.{number}", IMPLICIT_LITTLE): False})
    assert book.refuses(Kind("1.2.599", IMPLICIT_LITTLE))
    assert not book.refuses(Kind("1.2.0", IMPLICIT_LITTLE))


# STOW-RS


def cloud(server: WebPacs, syncer: Syncer, syntaxes: Syntaxes) -> StowTransport:
    destination = DicomwebDestination(name="cloud", url=server.url, timeouts=Timeouts(connect=5.0, response=5.0))
    return StowTransport(Web(destination, None, SystemClock()), syncer, syntaxes=syntaxes)


@pytest.mark.parametrize("how", [415, 0xC122, 0x0122])
async def test_a_server_that_takes_no_such_syntax_is_given_explicit_vr_once(
    how: int, syncer: Syncer, workshop: Workshop
) -> None:
    one = parcel(FOLDER / "MR_small_bigendian.dcm")
    syntaxes = Syntaxes(workshop)
    with WebPacs() as server:
        if how == 415:
            server.script.append(lambda _: Reply(415, stored=False))
        else:
            server.script.append(lambda r: stored(r, failed={r.uids[0]: how}, status=409))
        (outcome,) = await send(cloud(server, syncer, syntaxes), one)
        assert isinstance(outcome, Accepted)
        (again,) = await send(cloud(server, syncer, syntaxes), one)
        assert isinstance(again, Accepted)
        assert len(server.posts) == 3, "what is known is not tried first"
        (instance,) = server.stored.values()
    assert outcome.rendering is not None
    assert again.rendering == outcome.rendering
    assert instance.digest == outcome.rendering.digest
    after = dcmread(BytesIO(instance.file))
    assert after.file_meta.TransferSyntaxUID == EXPLICIT_LITTLE
    same(dcmread(one.path), after)


async def test_a_server_that_takes_neither_is_not_asked_a_third_time(syncer: Syncer, workshop: Workshop) -> None:
    with WebPacs() as server:
        for _ in range(2):
            server.script.append(lambda _: Reply(415, stored=False))
        (outcome,) = await send(cloud(server, syncer, Syntaxes(workshop)), parcel(FOLDER / "MR_small_bigendian.dcm"))
        assert len(server.posts) == 2
    assert isinstance(outcome, Refused)
    assert outcome.unsupported
    assert outcome.code == "UNSUPPORTED_MEDIA"


async def test_explicit_vr_that_is_refused_is_refused(syncer: Syncer, workshop: Workshop) -> None:
    with WebPacs() as server:
        server.script.append(lambda _: Reply(415, stored=False))
        (outcome,) = await send(cloud(server, syncer, Syntaxes(workshop)), parcel(FOLDER / "CT_small.dcm"))
        assert len(server.posts) == 1
    assert isinstance(outcome, Refused)


# decompression


def compressed() -> list[str]:
    names = []
    for name, path in bundled():
        if part10.read_meta(path.read_bytes()).transfer_syntax_uid in LOSSLESS:
            names.append(name)
    return names


NOT_DECODED: Final = {
    "J2K_pixelrep_mismatch.dcm": "cannot be decoded",
    "UN_sequence.dcm": "does not say its rows",
}
"""Bundled files that lie about their pixels, or have none."""


@pytest.mark.parametrize("name", compressed())
async def test_what_was_compressed_without_loss_arrives_decompressed_where_configured(
    name: str, syncer: Syncer, workshop: Workshop, tmp_path: Path
) -> None:
    one = parcel(FOLDER / name)
    with Storescp(tmp_path / "pacs", nodelay=True, extra=["+xe"]) as server:
        syntaxes = Syntaxes(workshop, decompress=True)
        (outcome,) = await send(DimseTransport(pacs(server.port), syncer, syntaxes=syntaxes), one)
        files = server.received()
        data = files[0].read_bytes() if files else b""
    if name in NOT_DECODED:
        assert isinstance(outcome, Refused)
        assert outcome.code == "NOT_DECOMPRESSED"
        assert NOT_DECODED[name] in outcome.detail
        assert not outcome.unsupported
        return
    assert isinstance(outcome, Accepted)
    assert outcome.rendering is not None
    assert outcome.rendering.decompressed
    meta = part10.read_meta(data)
    assert (meta.transfer_syntax_uid, meta.sop_instance_uid) == (EXPLICIT_LITTLE, one.sop_instance_uid)
    assert hashlib.sha256(data[meta.offset :]).digest() == outcome.rendering.digest
    before, after = dcmread(one.path), dcmread(BytesIO(data))
    assert np.array_equal(before.pixel_array, after.pixel_array)
    for one_way in (before, after):
        for tag in (0x7FE00010, 0x00280004, 0x00280006):
            one_way.pop(tag, None)
    same(before, after)


def with_values(path: Path, folder: Path, **values: object) -> Parcel:
    """The file with other values, as whoever means harm would have it."""
    dataset = dcmread(path)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    made = folder / "changed.dcm"
    dataset.save_as(made)
    return parcel(made)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"Rows": 65535, "Columns": 65535}, "would be"),
        ({"NumberOfFrames": 2_000_000_000}, "would be"),
        ({"NumberOfFrames": 7}, "other frames than it says"),
        ({"BitsAllocated": 12}, "bits a sample"),
        ({"Rows": 0}, "would be"),
    ],
)
async def test_pixels_that_are_not_as_declared_are_held_and_the_next_one_goes(
    values: dict[str, object], why: str, workshop: Workshop, tmp_path: Path
) -> None:
    bad = with_values(FOLDER / "MR_small_RLE.dcm", tmp_path, **values)
    refused = await workshop.render(bad, EXPLICIT_LITTLE)
    assert isinstance(refused, Refused)
    assert refused.code == "NOT_DECOMPRESSED"
    assert why in refused.detail
    made = await workshop.render(parcel(FOLDER / "MR_small_RLE.dcm"), EXPLICIT_LITTLE)
    assert isinstance(made, Rendition)
    with made:
        pass


async def test_no_frame_is_left_over(workshop: Workshop, tmp_path: Path) -> None:
    fewer = with_values(FOLDER / "SC_rgb_rle_2frame.dcm", tmp_path, NumberOfFrames=1)
    refused = await workshop.render(fewer, EXPLICIT_LITTLE)
    assert isinstance(refused, Refused)
    assert "other frames than it says" in refused.detail


async def test_compressed_pixels_that_have_rotted_are_a_damaged_file(workshop: Workshop, tmp_path: Path) -> None:
    good = parcel(FOLDER / "MR_small_RLE.dcm")
    data = bytearray(good.path.read_bytes())
    for at in (good.offset + 40, len(data) - 1500, len(data) - 3000):
        data[at] ^= 0xFF
    path = tmp_path / "rotten.dcm"
    path.write_bytes(data)
    refused = await workshop.render(msgspec.structs.replace(good, path=path), EXPLICIT_LITTLE)
    assert isinstance(refused, Refused)
    assert refused.code == "FILE_DAMAGED"


async def test_a_decoder_that_dies_holds_what_it_died_of_and_harms_nobody_else(tmp_path: Path) -> None:
    program = tmp_path / "dies.py"
    program.write_text("import os, socket, sys\nsocket.socket(fileno=int(sys.argv[1])).recv(1)\nos.abort()\n")
    workshop = Workshop(Scratch(tmp_path), Decoder((sys.executable, str(program))))
    refused = await workshop.render(parcel(FOLDER / "MR_small_RLE.dcm"), EXPLICIT_LITTLE)
    assert isinstance(refused, Refused)
    assert "died of it" in refused.detail
    made = await workshop.render(parcel(FOLDER / "CT_small.dcm"), IMPLICIT_LITTLE)
    assert isinstance(made, Rendition)
    with made:
        pass
    workshop.close()


async def test_a_decoder_that_went_for_want_of_work_is_begun_again(tmp_path: Path) -> None:
    decoder = Decoder()
    workshop = Workshop(Scratch(tmp_path), decoder)
    for _ in range(2):
        made = await workshop.render(parcel(FOLDER / "MR_small_RLE.dcm"), EXPLICIT_LITTLE)
        assert isinstance(made, Rendition)
        with made:
            pass
        process = decoder._process
        assert process is not None
        process.kill()
        process.wait()
    workshop.close()


async def test_whoever_waits_for_a_decoder_that_hangs_may_go(tmp_path: Path) -> None:
    program = tmp_path / "hangs.py"
    program.write_text("import time\nwhile True:\n    time.sleep(60)\n")
    decoder = Decoder((sys.executable, str(program)))
    workshop = Workshop(Scratch(tmp_path), decoder)
    waiting = asyncio.create_task(workshop.render(parcel(FOLDER / "MR_small_RLE.dcm"), EXPLICIT_LITTLE))
    await until(lambda: decoder._process is not None)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: decoder._process is None)
    workshop.close()


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not so():  # noqa: ASYNC110 - a thread does not call
            await asyncio.sleep(0.02)
