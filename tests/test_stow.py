"""The STOW-RS transport against a server that does as it is told: the truth of each instance, whatever is answered."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from edge.clock import SystemClock
from edge.config import DicomwebDestination, Timeouts
from edge.evidence import Evidence
from edge.forward.outcome import Accepted, Outcome, Refused, TryLater, Unreachable
from edge.forward.stow import MOST_BYTES, Coming, StowTransport
from edge.forward.transport import Session
from edge.forward.web import Web
from edge.model import Kind
from edge.spool import Reader, Syncer
from edge.store import Parcel
from tests.peers.dicomweb import XML, Reply, Request, WebPacs, failing, hang_up, saying, stored
from tests.peers.objects import DicomObject, ct, mr
from tests.test_transport import parcel

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def pacs() -> Iterator[WebPacs]:
    with WebPacs() as server:
        yield server


@pytest.fixture
async def syncer() -> AsyncIterator[Syncer]:
    threads = Syncer()
    yield threads
    threads.close()


class Sender:
    """One session, warmed up: its requests carry all that is given at once."""

    def __init__(self, pacs: WebPacs, syncer: Syncer, folder: Path) -> None:
        destination = DicomwebDestination(name="cloud", url=pacs.url, timeouts=Timeouts(connect=2.0, response=2.0))
        self.transport = StowTransport(Web(destination, None, SystemClock()), syncer)
        self.session: Session | None = None
        self._folder = folder
        self._number = 0

    def parcels(self, objects: Sequence[DicomObject], strikes: int = 0) -> list[Parcel]:
        made = []
        for each in objects:
            self._number += 1
            one = parcel(self._folder, each, self._number)
            made.append(msgspec.structs.replace(one, strikes=strikes))
        return made

    async def open(self) -> Session:
        session = await self.transport.open([])
        assert not isinstance(session, Unreachable)
        session._most = 32
        self.session = session
        return session

    async def send(self, objects: Sequence[DicomObject]) -> dict[str, Outcome]:
        """What became of each, by SOP Instance UID."""
        return await self.send_parcels(self.parcels(objects))

    async def send_parcels(self, parcels: Sequence[Parcel]) -> dict[str, Outcome]:
        session = self.session if self.session is not None and self.session.usable else await self.open()
        return {p.sop_instance_uid: outcome async for p, outcome in session.send(parcels)}


@pytest.fixture
async def sender(pacs: WebPacs, syncer: Syncer, tmp_path: Path) -> AsyncIterator[Sender]:
    made = Sender(pacs, syncer, tmp_path)
    yield made
    if made.session is not None:
        await made.session.close()


def uids(objects: Sequence[DicomObject]) -> list[str]:
    return [each.sop_instance_uid for each in objects]


# the truth of each instance


async def test_what_is_listed_is_accepted_and_came_byte_for_byte(pacs: WebPacs, sender: Sender) -> None:
    objects = [*mr(5), *ct(2)]
    got = await sender.send(objects)
    assert [got[uid] for uid in uids(objects)] == [Accepted("LISTED", Evidence.STOW_LISTED)] * 7
    assert {uid: each.digest for uid, each in pacs.stored.items()} == {o.sop_instance_uid: o.digest for o in objects}
    (post,) = pacs.posts
    assert post.headers["content-length"] == str(len(post.body))
    assert "transfer-encoding" not in post.headers
    assert post.headers["accept"] == "application/dicom+json"


async def test_what_goes_out_says_nothing_of_who_sent_it_here(pacs: WebPacs, sender: Sender) -> None:
    await sender.send(mr(1))
    (instance,) = pacs.stored.values()
    head = instance.file[: instance.file.index(b"DICM") + 400]
    assert b"2.25.242844071644968350697173694672403275707" not in head
    assert b"CT1" not in head


async def test_of_an_answer_without_one_only_that_one_is_sent_again(pacs: WebPacs, sender: Sender) -> None:
    objects = mr(6)
    missing = objects[3].sop_instance_uid
    pacs.script.append(lambda request: stored(request, omitted=[missing]))
    got = await sender.send(objects)
    assert isinstance(got[missing], TryLater)
    assert got[missing].code == "UNLISTED"
    assert all(isinstance(got[uid], Accepted) for uid in uids(objects) if uid != missing)


async def test_a_mixed_answer_is_taken_apart(pacs: WebPacs, sender: Sender) -> None:
    objects = mr(8)
    names = uids(objects)
    reasons = dict(zip(names, (0xA700, 0x0110, 0xA900, 0xC000, 0x0122, 0xC122, 0xB00F), strict=False))
    pacs.script.append(lambda request: stored(request, failed=reasons, status=202))
    got = await sender.send(objects)
    assert [type(got[name]) for name in names] == [
        *(TryLater, TryLater, Refused, Refused, Refused, Refused, TryLater),
        Accepted,
    ]
    assert [got[name].code for name in names[:7]] == ["A700", "0110", "A900", "C000", "0122", "C122", "B00F"]
    unsupported = [name for name in names if isinstance(o := got[name], Refused) and o.unsupported]
    assert unsupported == names[4:6]


async def test_a_warning_is_accepted_and_told(pacs: WebPacs, sender: Sender) -> None:
    objects = mr(2)
    pacs.script.append(lambda request: stored(request, warned={objects[0].sop_instance_uid: 0xB007}))
    got = await sender.send(objects)
    warned = got[objects[0].sop_instance_uid]
    assert isinstance(warned, Accepted)
    assert (warned.code, warned.evidence) == ("B007", Evidence.STOW_LISTED)
    assert warned.detail


async def test_a_conflict_is_read_like_any_other_answer(pacs: WebPacs, sender: Sender) -> None:
    objects = mr(2)
    reasons = {objects[0].sop_instance_uid: 0xA900, objects[1].sop_instance_uid: 0xC001}
    pacs.script.append(failing(lambda _: reasons, status=409))
    got = await sender.send(objects)
    assert [got[uid] for uid in uids(objects)] == [Refused("A900", _detail(got, 0)), Refused("C001", _detail(got, 1))]


def _detail(got: Mapping[str, Outcome], index: int) -> str:
    return list(got.values())[index].detail


@pytest.mark.parametrize("reason", [0xB00E, 0x0111])
async def test_stored_already_is_accepted_once_a_query_agrees(pacs: WebPacs, sender: Sender, reason: int) -> None:
    there, not_there = mr(2)
    await sender.send([there])
    again = {o.sop_instance_uid: reason for o in (there, not_there)}
    pacs.script.append(failing(lambda _: again, status=409))
    got = await sender.send([there, not_there])
    assert got[there.sop_instance_uid] == Accepted(f"{reason:04X}", Evidence.STOW_ALREADY)
    assert isinstance(got[not_there.sop_instance_uid], TryLater)


async def test_a_server_that_cannot_be_asked_whether_it_has_them_is_asked_once(pacs: WebPacs, sender: Sender) -> None:
    objects = mr(3)
    pacs.script.append(failing(lambda request: dict.fromkeys(request.uids, 0xB00E), status=409))
    pacs.queries = saying(503)
    got = list((await sender.send(objects)).values())
    assert [(type(each), each.code) for each in got] == [(TryLater, "B00E")] * 3
    assert all("cannot be asked" in each.detail for each in got)
    assert len(pacs.asked) == 1


async def test_what_is_in_both_lists_failed(pacs: WebPacs, sender: Sender) -> None:
    (one,) = mr(1)

    def both(request: Request) -> Reply:
        listed = json.loads(stored(request).body)
        failed = json.loads(stored(request, failed={one.sop_instance_uid: 0xA700}).body)
        return Reply(200, json.dumps(listed | failed).encode())

    pacs.script.append(both)
    assert isinstance((await sender.send([one]))[one.sop_instance_uid], TryLater)


async def test_one_alone_is_told_by_a_failure_that_names_nothing(pacs: WebPacs, sender: Sender) -> None:
    (one,) = mr(1)
    nameless = {"0008119A": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xC000]}}]}}
    pacs.script.append(saying(409, json.dumps(nameless).encode(), "application/dicom+json"))
    assert (await sender.send([one]))[one.sop_instance_uid].code == "C000"


async def test_no_reason_and_no_answer_prove_nothing(pacs: WebPacs, sender: Sender) -> None:
    first, second = mr(2)
    item = {"00081155": {"vr": "UI", "Value": [first.sop_instance_uid]}}
    pacs.script.append(
        saying(202, json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode(), "application/dicom+json")
    )
    pacs.script.append(saying(200))
    assert (await sender.send([first]))[first.sop_instance_uid].code == "NO_REASON"
    assert (await sender.send([second]))[second.sop_instance_uid].code == "UNLISTED"


async def test_a_server_that_speaks_only_xml_is_understood(pacs: WebPacs, sender: Sender) -> None:
    pacs.accepts = {XML}
    objects = mr(4)
    reasons = {objects[1].sop_instance_uid: 0xA900}
    pacs.always = lambda request: stored(
        request, failed=reasons, warned={objects[2].sop_instance_uid: 0xB000}, omitted=[objects[3].sop_instance_uid]
    )
    got = await sender.send(objects)
    assert [each.code for each in got.values()] == ["LISTED", "A900", "B000", "UNLISTED"]
    await sender.send(mr(1))
    assert [each.headers["accept"] for each in pacs.posts].count("application/dicom+json") == 1, "it is remembered"


# what is about the request


async def test_too_much_is_halved_until_it_fits(pacs: WebPacs, sender: Sender) -> None:
    objects = mr(8)
    small = 3 * objects[0].length
    pacs.always = lambda request: stored(request) if len(request.body) < small else Reply(413, stored=False)
    got = await sender.send(objects)
    assert [type(outcome) for outcome in got.values()] == [Accepted] * 8
    assert [len(post.instances) for post in pacs.posts] == [8, 4, 2, 2, 4, 2, 2]
    await sender.send(mr(8))
    assert max(len(post.instances) for post in pacs.posts[7:]) < 8, "it is remembered"


async def test_one_that_is_too_large_alone_is_refused(pacs: WebPacs, sender: Sender) -> None:
    small, large = mr(1)[0], ct(1)[0]
    pacs.always = lambda request: stored(request) if len(request.body) < large.length else Reply(413, stored=False)
    got = await sender.send([small, large])
    assert isinstance(got[small.sop_instance_uid], Accepted)
    refused = got[large.sop_instance_uid]
    assert isinstance(refused, Refused)
    assert refused.code == "TOO_LARGE"


@pytest.mark.parametrize(("status", "code"), [(400, "BAD_REQUEST"), (415, "UNSUPPORTED_MEDIA")])
async def test_the_bad_one_of_a_request_is_found_and_the_others_go_through(
    pacs: WebPacs, sender: Sender, status: int, code: str
) -> None:
    objects = mr(16)
    bad = objects[11].sop_instance_uid
    pacs.always = lambda request: Reply(status, stored=False) if bad in request.uids else stored(request)
    got = await sender.send(objects)
    refused = got.pop(bad)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.unsupported) == (code, status == 415)
    assert [type(outcome) for outcome in got.values()] == [Accepted] * 15
    assert len(pacs.posts) == 9


async def test_where_every_request_is_bad_it_is_not_the_instances(pacs: WebPacs, sender: Sender) -> None:
    pacs.always = saying(400)
    got = await sender.send(mr(12))
    kinds = [type(outcome) for outcome in got.values()]
    assert kinds.count(Refused) == 8
    assert isinstance(list(got.values())[-1], Unreachable)


# what is about the destination


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (saying(401), "LOGIN_REFUSED"),
        (saying(403), "FORBIDDEN"),
        (saying(404), "NO_SERVICE"),
        (saying(500), "SERVER_ERROR"),
        (saying(502, b"<html>Bad gateway</html>", "text/html"), "SERVER_ERROR"),
        (saying(418), "UNEXPECTED_ANSWER"),
        (saying(200, b"<html>Please log in</html>", "text/html"), "NOT_DICOMWEB"),
        (saying(409, b"<!DOCTYPE html><html></html>", "application/xml"), "NOT_DICOMWEB"),
        (saying(200, b'{"00081199": {"vr": "SQ", "Val', "application/dicom+json"), "NOT_DICOMWEB"),
        (saying(200, b"[" * 100_000, "application/dicom+json"), "NOT_DICOMWEB"),
        (saying(200, b"{" + b" " * (17 << 20) + b"}", "application/dicom+json"), "NOT_DICOMWEB"),
        (saying(302, location="http://elsewhere.example.org/"), "REDIRECTED"),
        (saying(307, location="http://elsewhere.example.org/"), "REDIRECTED"),
        (saying(303, location="/dicom-web/elsewhere"), "REDIRECTED"),
        (saying(200, b"\x1f\x8b", "application/dicom+json", content_encoding="gzip"), "PROTOCOL_ERROR"),
        (hang_up, "CONNECTION_LOST"),
    ],
)
async def test_a_sick_destination_is_no_sick_instance(pacs: WebPacs, sender: Sender, script: object, code: str) -> None:
    pacs.always = script  # type: ignore[assignment]
    objects = mr(3)
    got = await sender.send(objects)
    told = list(got.values())
    assert [type(outcome) for outcome in told] == [Unreachable] * 3
    assert {outcome.code for outcome in told} == {code}
    assert all(outcome.detail.endswith((".", "?")) for outcome in told)
    assert all(isinstance(o, Unreachable) and o.midway for o in told), "each of them may be there"
    assert [isinstance(o, Unreachable) and o.echo for o in told] == [False, True, True], "it is one failure"
    assert sender.session is not None
    assert not sender.session.usable
    assert pacs.stored == {}


async def test_an_answer_cut_short_proves_nothing(pacs: WebPacs, sender: Sender) -> None:
    (one,) = mr(1)

    def cut(request: Request) -> Reply:
        whole = stored(request)
        return Reply(200, whole.body, cut=len(whole.body) - 2)

    pacs.script.append(cut)
    got = (await sender.send([one]))[one.sop_instance_uid]
    assert isinstance(got, Unreachable)
    assert got.code == "CONNECTION_LOST"


async def test_a_server_that_says_nothing_is_given_up(pacs: WebPacs, syncer: Syncer, tmp_path: Path) -> None:
    released = threading.Event()

    def silent(request: Request) -> Reply:
        released.wait(10)
        return stored(request)

    pacs.always = silent
    destination = DicomwebDestination(name="cloud", url=pacs.url, timeouts=Timeouts(connect=0.2, response=0.2))
    session = await StowTransport(Web(destination, None, SystemClock()), syncer).open([])
    assert not isinstance(session, Unreachable)
    (got,) = [outcome async for _, outcome in session.send([parcel(tmp_path, mr(1)[0], 1)])]
    released.set()
    await session.close()
    assert isinstance(got, Unreachable)
    assert got.code == "NO_ANSWER"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("said", "after"),
    [
        ("120", 120.0),
        ("999999999", 3600.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 3600.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
async def test_how_long_it_wants_to_be_left_alone_is_heard(
    pacs: WebPacs, sender: Sender, status: int, said: str, after: float | None
) -> None:
    pacs.script.append(saying(status, Retry_After=said))
    (got,) = (await sender.send(mr(1))).values()
    assert isinstance(got, Unreachable)
    assert got.code == ("TOO_MANY_REQUESTS" if status == 429 else "UNAVAILABLE")
    assert got.after == after


async def test_a_redirect_on_the_same_host_is_followed(pacs: WebPacs, sender: Sender) -> None:
    (one,) = mr(1)
    pacs.script.append(saying(308, location="/dicom-web/studies"))
    got = await sender.send([one])
    assert isinstance(got[one.sop_instance_uid], Accepted)
    assert len(pacs.posts) == 2


async def test_redirects_without_end_are_given_up(pacs: WebPacs, sender: Sender) -> None:
    pacs.always = saying(307, location="/dicom-web/studies")
    (got,) = (await sender.send(mr(1))).values()
    assert isinstance(got, Unreachable)
    assert got.code == "REDIRECTED"
    assert len(pacs.posts) == 4


async def test_a_connection_that_was_closed_meanwhile_is_made_again(pacs: WebPacs, sender: Sender) -> None:
    await sender.send(mr(1))
    pacs.script.append(hang_up)
    (one,) = mr(1)
    got = await sender.send([one])
    assert isinstance(got[one.sop_instance_uid], Accepted)


async def test_a_large_request_that_is_cut_off_is_not_sent_again_at_once(
    pacs: WebPacs, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.forward.stow._STALE", 100_000)
    small, large = mr(1)[0], ct(1)[0]
    await sender.send([small])
    pacs.script.append(hang_up)
    (got,) = (await sender.send([large])).values()
    assert got.code == "CONNECTION_LOST"
    assert [post.uids for post in pacs.posts[1:]] == [[large.sop_instance_uid]]


async def test_a_refusal_that_comes_before_all_is_sent_is_heard(pacs: WebPacs, sender: Sender) -> None:
    objects = mr(1500)
    parcels = sender.parcels(objects)
    most = parcels[0].length * 400
    pacs.lingers = 10.0
    pacs.early = lambda request: Reply(413) if int(request.headers["content-length"]) > most else None
    session = await sender.open()
    session._most = 1500  # type: ignore[attr-defined]
    sender.transport._learnt.most_bytes = 1 << 30
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge.forward.stow._COMPANY", (1500, 8, 1))
        got = await sender.send_parcels(parcels)
    assert [type(outcome) for outcome in got.values()] == [Accepted] * 1500
    assert [len(post.instances) for post in pacs.posts] == [0, 0, 375, 375, 0, 375, 375]


# batches


async def test_a_session_begins_with_one_and_grows_as_it_succeeds(pacs: WebPacs, sender: Sender) -> None:
    session = await sender.open()
    session._most = 1  # type: ignore[attr-defined]
    assert len(await sender.send(mr(60))) == 60
    assert [len(post.instances) for post in pacs.posts] == [1, 4, 16, 32, 7]


def made(uid: str, length: int = 1000, strikes: int = 0) -> Parcel:
    return Parcel(
        delivery=1,
        instance=1,
        kind=Kind("1.2", "1.2.840.10008.1.2.1"),
        sop_instance_uid=uid,
        length=length,
        offset=0,
        digest=b"",
        calling="",
        strikes=strikes,
        path=Path("x"),
    )


def shared(parcels: Sequence[Parcel]) -> list[list[str]]:
    coming, batches = Coming(parcels), []
    while batch := coming.together(32, MOST_BYTES):
        batches.append([each.sop_instance_uid for each in batch])
    return batches


def test_a_large_one_goes_alone() -> None:
    assert shared([made("1"), made("2", 200 << 20), made("3"), made("4")]) == [["1"], ["2"], ["3", "4"]]


def test_a_uid_stands_in_a_request_once() -> None:
    assert shared([made("1"), made("2"), made("1"), made("3")]) == [["1", "2"], ["1", "3"]]


def test_what_failed_before_goes_in_small_company_then_alone() -> None:
    once = [made(str(i), strikes=1) for i in range(10)]
    assert [len(each) for each in shared(once)] == [8, 2]
    assert shared([made("1"), made("2", strikes=2), made("3")]) == [["1"], ["2"], ["3"]]


# files


async def test_a_rotten_file_is_found_and_its_neighbours_go_through(pacs: WebPacs, sender: Sender) -> None:
    objects = [*mr(3), *ct(1)]
    parcels = sender.parcels(objects)
    for rotten in (parcels[1], parcels[3]):
        data = bytearray(rotten.path.read_bytes())
        data[-5] ^= 1
        rotten.path.write_bytes(data)
    got = await sender.send_parcels(parcels)
    assert [each.code for each in got.values() if isinstance(each, Refused)] == ["FILE_DAMAGED"] * 2
    assert sorted(pacs.stored) == sorted(uids([objects[0], objects[2]]))
    assert [post.whole for post in pacs.posts].count(True) == 1, "no whole request with something rotten in it"


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (errno.ENOENT, Refused, "FILE_MISSING"),
        (errno.EMFILE, TryLater, "FILE_UNREADABLE"),
        (errno.EIO, TryLater, "FILE_UNREADABLE"),
    ],
)
async def test_a_file_that_cannot_be_read_now_is_not_given_up(
    sender: Sender, monkeypatch: pytest.MonkeyPatch, error: int, kind: type, code: str
) -> None:
    parcels = sender.parcels(mr(3))
    whole = Reader.__enter__

    def enter(reader: Reader) -> Reader:
        if reader._path == parcels[1].path:
            raise OSError(error, os.strerror(error), str(reader._path))
        return whole(reader)

    monkeypatch.setattr(Reader, "__enter__", enter)
    got = list((await sender.send_parcels(parcels)).values())
    assert sorted((type(each).__name__, each.code) for each in got) == sorted(
        [("Accepted", "LISTED"), ("Accepted", "LISTED"), (kind.__name__, code)]
    )


def test_nothing_is_imported_before_the_first_request(tmp_path: Path) -> None:
    code = (
        "import sys, edge.app, edge.forward.stow; "
        "print([m for m in ('httpx', 'httpcore', 'h2', 'jwt', 'anyio') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert said.stdout.strip() == "[]"
