"""One seam, one contract suite: what every transport must do, run over each of them with its real counterpart."""

import asyncio
import errno
import hashlib
import io
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge.clock import SystemClock
from edge.config import DicomwebDestination, DimseDestination, FolderDestination, Timeouts
from edge.forward.dimse import DimseTransport, propose
from edge.forward.folder import FolderTransport
from edge.forward.outcome import Accepted, Outcome, Refused, TryLater, Unreachable
from edge.forward.stow import StowTransport
from edge.forward.transport import Session, Transport
from edge.forward.web import Web
from edge.model import Kind, Need
from edge.spool import Reader, Syncer
from edge.store import Parcel
from tests.fakes import FakeTransport
from tests.peers.dicomweb import WebPacs
from tests.peers.objects import DicomObject, ct, mr
from tests.peers.ports import LOOPBACK, free_port, wait_for
from tests.peers.receiver import RawReceiver


@dataclass
class Bench:
    """A transport, and what its destination has, by digest; `down` takes the destination away."""

    transport: Transport
    has: Callable[[], list[bytes]]
    down: Callable[[], object]


@contextmanager
def dimse_bench(_folder: Path, syncer: Syncer) -> Iterator[Bench]:
    with RawReceiver() as pacs:
        destination = DimseDestination(
            name="pacs",
            host=LOOPBACK,
            port=pacs.port,
            ae_title="PACS",
            timeouts=Timeouts(connect=2.0, response=2.0),
        )
        transport = DimseTransport(destination, syncer)
        yield Bench(transport, lambda: [r.digest for r in pacs.accepted], pacs.stop)


@contextmanager
def folder_bench(folder: Path, _syncer: Syncer) -> Iterator[Bench]:
    path = folder / "archive"
    path.mkdir()

    def has() -> list[bytes]:
        return [hashlib.sha256(f.read_bytes()[HEAD:]).digest() for f in path.glob("*/*.dcm")]

    yield Bench(FolderTransport(FolderDestination(name="a", path=path)), has, lambda: path.rename(folder / "x"))


@contextmanager
def stow_bench(_folder: Path, syncer: Syncer) -> Iterator[Bench]:
    with WebPacs() as pacs:
        destination = DicomwebDestination(name="cloud", url=pacs.url, timeouts=Timeouts(connect=2.0, response=2.0))
        transport = StowTransport(Web(destination, None, SystemClock()), syncer)
        yield Bench(transport, lambda: [each.digest for each in pacs.stored.values()], pacs.stop)


@contextmanager
def fake_bench(_folder: Path, _syncer: Syncer) -> Iterator[Bench]:
    fake = FakeTransport()
    yield Bench(fake, lambda: [p.digest for p in fake.delivered], fake.go_down)


HEAD = 64


def parcel(folder: Path, obj: DicomObject, number: int) -> Parcel:
    path = folder / f"{number}.dcm"
    path.write_bytes(bytes(HEAD) + b"".join(obj.fragments(1 << 16)))
    return Parcel(
        delivery=number,
        instance=number,
        kind=Kind(obj.sop_class_uid, obj.transfer_syntax_uid),
        sop_instance_uid=obj.sop_instance_uid,
        length=obj.length,
        offset=HEAD,
        digest=obj.digest,
        calling="CT1",
        strikes=0,
        path=path,
    )


@pytest.fixture(params=[dimse_bench, folder_bench, stow_bench, fake_bench], ids=["dimse", "folder", "stow", "fake"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    syncer = Syncer()
    with ExitStack() as stack:
        yield stack.enter_context(request.param(tmp_path, syncer))
    syncer.close()


async def opened(transport: Transport, parcels: Sequence[Parcel]) -> Session:
    session = await transport.open([Need(p.kind, p.calling) for p in parcels])
    assert not isinstance(session, Unreachable)
    return session


async def outcomes(session: Session, parcels: Sequence[Parcel]) -> dict[int, Outcome]:
    return {p.delivery: outcome async for p, outcome in session.send(parcels)}


async def test_yields_one_outcome_for_each_parcel_and_delivers_the_bytes(bench: Bench, tmp_path: Path) -> None:
    objects = [*mr(3), *ct(2)]
    parcels = [parcel(tmp_path, o, i) for i, o in enumerate(objects, 1)]
    session = await opened(bench.transport, parcels)
    got = await outcomes(session, parcels)
    assert set(got) == {1, 2, 3, 4, 5}
    assert all(isinstance(o, Accepted) for o in got.values())
    assert session.usable
    await session.close()
    assert sorted(bench.has()) == sorted(o.digest for o in objects)


async def test_the_same_parcel_may_be_sent_again(bench: Bench, tmp_path: Path) -> None:
    parcels = [parcel(tmp_path, o, 1) for o in mr(1)]
    session = await opened(bench.transport, parcels)
    for _ in range(2):
        assert isinstance((await outcomes(session, parcels))[1], Accepted)
    await session.close()
    assert set(bench.has()) == {parcels[0].digest}


async def test_says_unreachable_where_the_destination_is_gone(bench: Bench, tmp_path: Path) -> None:
    parcels = [parcel(tmp_path, o, 1) for o in mr(1)]
    bench.down()
    answer = await bench.transport.open([Need(parcels[0].kind, "CT1")])
    if not isinstance(answer, Unreachable):  # some only find out when they send
        answer = (await outcomes(answer, parcels))[1]  # type: ignore[assignment]
    assert isinstance(answer, Unreachable)
    assert answer.code
    assert answer.detail.endswith((".", "?"))


async def test_a_destination_lost_midway_leaves_the_rest_untried(bench: Bench, tmp_path: Path) -> None:
    parcels = [parcel(tmp_path, o, i) for i, o in enumerate(mr(4), 1)]
    session = await opened(bench.transport, parcels)
    seen: list[Outcome] = []
    async for _, outcome in session.send(parcels):
        seen.append(outcome)
        if len(seen) == 1:
            bench.down()
    await session.close()
    assert isinstance(seen[0], Accepted)
    assert isinstance(seen[-1], Unreachable)
    assert len(seen) < 4
    assert len(bench.has()) <= 1 or bench.has() == [parcels[0].digest]


async def test_a_missing_file_is_refused_and_its_neighbours_go_through(bench: Bench, tmp_path: Path) -> None:
    parcels = [parcel(tmp_path, o, i) for i, o in enumerate(mr(3), 1)]
    parcels[1].path.unlink()
    session = await opened(bench.transport, parcels)
    got = await outcomes(session, parcels)
    await session.close()
    missing = got[2]
    assert isinstance(missing, Refused)
    assert missing.code == "FILE_MISSING"
    assert isinstance(got[1], Accepted)
    assert isinstance(got[3], Accepted)


with_files = pytest.mark.parametrize(
    "bench", [dimse_bench, folder_bench, stow_bench], ids=["dimse", "folder", "stow"], indirect=True
)


@with_files
@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO])
async def test_a_file_that_cannot_be_opened_now_is_not_given_up(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    parcels = [parcel(tmp_path, o, i) for i, o in enumerate(mr(3), 1)]
    session = await opened(bench.transport, parcels)
    failing(monkeypatch, "open", parcels[1].path, error)
    got = await outcomes(session, parcels)
    await session.close()
    monkeypatch.undo()
    assert isinstance(got[2], TryLater)
    assert got[2].code == "FILE_UNREADABLE"
    assert isinstance(got[1], Accepted)
    assert isinstance(got[3], Accepted)


@with_files
async def test_a_disk_that_fails_a_file_midway_is_no_trouble_of_the_destination(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcels = [parcel(tmp_path, o, i) for i, o in enumerate(ct(1), 1)]
    session = await opened(bench.transport, parcels)
    failing(monkeypatch, "read", parcels[0].path, errno.EIO)
    (got,) = (await outcomes(session, parcels)).values()
    await session.close()
    monkeypatch.undo()
    assert isinstance(got, TryLater)
    assert got.code == "FILE_UNREADABLE"
    assert bench.has() == []
    session = await opened(bench.transport, parcels)
    assert isinstance((await outcomes(session, parcels))[1], Accepted)
    await session.close()


def failing(monkeypatch: pytest.MonkeyPatch, what: str, path: Path, error: int) -> None:
    """Have the system fail to ``open`` or to ``read`` one stored file, by whatever way it is done."""
    enter, whole, path_open = Reader.__enter__, Reader._whole, Path.open
    trouble = OSError(error, os.strerror(error), str(path))

    class Bad(io.FileIO):
        def readinto(self, _buffer: object) -> int:
            raise OSError(error, os.strerror(error))

    def reader_enter(reader: Reader) -> Reader:
        if reader._path == path:
            raise trouble
        return enter(reader)

    def reader_whole(reader: Reader, count: int, at: int) -> bytes:
        if reader._path != path:
            return whole(reader, count, at)
        fd, reader._fd = reader._fd, -1
        try:  # the system's own error, by a descriptor that is none
            return whole(reader, count, at)
        finally:
            reader._fd = fd

    def any_open(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self != path:
            return path_open(self, *args, **kwargs)
        if what == "open":
            raise trouble
        return io.BufferedReader(Bad(self))

    if what == "open":
        monkeypatch.setattr(Reader, "__enter__", reader_enter)
    else:
        monkeypatch.setattr(Reader, "_cached", lambda _reader, _count: bytearray())
        monkeypatch.setattr(Reader, "_whole", reader_whole)
    monkeypatch.setattr(Path, "open", any_open)


async def test_a_file_cut_short_is_refused_and_never_delivered(bench: Bench, tmp_path: Path) -> None:
    parcels = [parcel(tmp_path, o, i) for i, o in enumerate(ct(1), 1)]
    parcels[0].path.write_bytes(parcels[0].path.read_bytes()[:-2000])
    session = await opened(bench.transport, parcels)
    damaged = (await outcomes(session, parcels))[1]
    await session.close()
    assert isinstance(damaged, Refused)
    assert damaged.code == "FILE_DAMAGED"
    assert bench.has() == []


async def test_closing_twice_does_no_harm(bench: Bench, tmp_path: Path) -> None:
    parcels = [parcel(tmp_path, o, 1) for o in mr(1)]
    session = await opened(bench.transport, parcels)
    await session.close()
    await session.close()


# what the folder alone has


async def test_a_folder_that_does_not_answer_is_down_until_what_was_begun_there_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.forward.folder._SILENCE", 0.05)
    one = parcel(tmp_path, mr(1)[0], 1)
    name = one.digest.hex()
    below = tmp_path / "archive" / name[:2]
    below.mkdir(parents=True)
    hangs = below / f"{name}.{one.instance}.part"
    os.mkfifo(hangs)  # what opens it for writing waits for a reader
    transport = FolderTransport(FolderDestination(name="a", path=tmp_path / "archive"))
    silent = (await outcomes(await opened(transport, [one]), [one]))[1]
    assert isinstance(silent, Unreachable)
    assert silent.code == "FOLDER_SILENT"
    again = await transport.open([])
    assert isinstance(again, Unreachable), "nothing else is begun there"
    assert again.code == "FOLDER_SILENT"
    assert len([t for t in threading.enumerate() if t.name == "aside"]) == 1
    os.close(os.open(hangs, os.O_RDONLY | os.O_NONBLOCK))
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "aside"], 10, "its end")
    hangs.unlink(missing_ok=True)
    monkeypatch.undo()
    assert transport._work is not None
    await asyncio.wait((transport._work,), timeout=10)
    assert isinstance((await outcomes(await opened(transport, [one]), [one]))[1], Accepted)
    assert (below / f"{name}.dcm").is_file()


# what DIMSE alone has


async def test_a_kind_that_was_not_proposed_waits_for_another_session(tmp_path: Path) -> None:
    syncer = Syncer()
    with dimse_bench(tmp_path, syncer) as bench:
        first, other = parcel(tmp_path, mr(1)[0], 1), parcel(tmp_path, ct(1)[0], 2)
        session = await opened(bench.transport, [first])
        assert list(await outcomes(session, [first, other])) == [1]
        assert not session.usable
        await session.close()
        session = await opened(bench.transport, [other])
        assert list(await outcomes(session, [other, first])) == [2, 1], "what was needed lately is proposed again"
        await session.close()
    syncer.close()


async def test_a_refused_context_is_refused_as_unsupported(tmp_path: Path) -> None:
    syncer = Syncer()
    with dimse_bench(tmp_path, syncer) as bench, RawReceiver(negotiate=lambda _s, _t: 3) as picky:
        del bench
        destination = DimseDestination(name="p", host=LOOPBACK, port=picky.port, ae_title="P")
        one = parcel(tmp_path, mr(1)[0], 1)
        session = await opened(DimseTransport(destination, syncer), [one])
        refused = (await outcomes(session, [one]))[1]
        await session.close()
    syncer.close()
    assert isinstance(refused, Refused)
    assert refused.unsupported
    assert refused.code == "CONTEXT_REJECTED"
    assert refused.detail == "it takes no MR Image Storage in Explicit VR Little Endian."


async def test_calls_as_the_modality_did_where_configured(tmp_path: Path) -> None:
    syncer = Syncer()
    with RawReceiver() as pacs:
        destination = DimseDestination(
            name="p", host=LOOPBACK, port=pacs.port, ae_title="P", calling_ae_title="original"
        )
        one = parcel(tmp_path, mr(1)[0], 1)
        session = await opened(DimseTransport(destination, syncer), [one])
        await outcomes(session, [one])
        await session.close()
        assert [r.calling for r in pacs.received] == ["CT1"]
    syncer.close()


async def test_a_closed_port_is_told_from_a_silent_one(tmp_path: Path) -> None:
    del tmp_path
    syncer = Syncer()
    kind = Kind("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1")
    closed = DimseDestination(name="p", host=LOOPBACK, port=free_port(), ae_title="P")
    answer = await DimseTransport(closed, syncer).open([Need(kind, "")])
    assert isinstance(answer, Unreachable)
    assert answer.code == "REFUSED_CONNECTION"
    for host in ("no-such-host.invalid", "no.name.."):
        nowhere = DimseDestination(name="p", host=host, port=104, ae_title="P")
        answer = await DimseTransport(nowhere, syncer).open([Need(kind, "")])
        assert isinstance(answer, Unreachable)
        assert answer.code == "NO_ADDRESS"
    syncer.close()


def test_proposals_have_a_context_each_and_implicit_beside_what_is_uncompressed() -> None:
    explicit, implicit, jpeg = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.50"
    proposals, proposed = propose([Kind("1.2", explicit), Kind("1.2", jpeg), Kind("1.2", implicit)])
    assert proposals == [("1.2", (explicit,)), ("1.2", (implicit,)), ("1.2", (jpeg,))]
    assert list(proposed) == [Kind("1.2", explicit), Kind("1.2", jpeg), Kind("1.2", implicit)]
    many, fitted = propose(Kind(f"1.2.{i}", explicit) for i in range(200))
    assert len(many) == 128
    assert len(fitted) == 64
