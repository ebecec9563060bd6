"""Whatever the bytes are: a value or the documented error, in bounded time and memory, and the next peer is served.

`tests/corpus` has small seeds from our own encoders, and every input that ever made something fail. Hypothesis edits
them, a plain seeded fuzzer beside it makes many more. EDGE_FUZZ_EXAMPLES=100000 makes a long run of both;
EDGE_FUZZ_SEED repeats one. `python -m tests.test_fuzz` writes the seeds anew.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import secrets
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge import configfile
from edge.clock import SystemClock
from edge.control import Control
from edge.dicom import command as dimse
from edge.dicom import elements, header, part10, pdu
from edge.dicom.acceptor import Acceptor, Capacity, Peer
from edge.dicom.association import Association, Discard, Limits, Message
from edge.dicom.command import CommandField
from edge.dicom.header import MAX_READ, read_header
from edge.dicom.pdu import AssociateReject, AssociateRequest
from edge.findings import Journal
from edge.intake import seal as seals
from edge.local import LocalServer, Reply
from edge.model import Source
from edge.routing import Leg
from edge.safety import StudyView
from edge.store import Choice, StudyFilter
from edge.supervise import Supervisor

CORPUS: Final = Path(__file__).parent / "corpus"
LARGEST: Final = 4096
MOST_FILES: Final = 60
EXAMPLES: Final = int(os.environ.get("EDGE_FUZZ_EXAMPLES", "0"))
SEED: Final = int(os.environ.get("EDGE_FUZZ_SEED", "0")) or secrets.randbits(32)
MOST_SECONDS: Final = 3.0
"""For one input; loosely, as the machine may be busy: what is meant is never to hang."""

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED, JPEG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50"
CT, VERIFICATION = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.1"


# what is fuzzed: each takes any bytes, and fails by raising


def fuzz_pdu(data: bytes) -> None:
    for decode in (pdu.decode_request, pdu.decode_accept, pdu.decode_reject):
        with contextlib.suppress(pdu.InvalidPDU):
            decode(data)
    pdu.decode_abort(data)


def fuzz_command(data: bytes) -> None:
    try:
        command = dimse.decode(data)
    except dimse.InvalidCommand:
        return
    # what can be read can be answered, and the answer be read
    dimse.decode(dimse.response(command, 0x0110, "no"))


class Counted:
    """Gives out a dataset, and counts what is asked."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.asked = self.calls = 0

    def __call__(self, offset: int, n: int) -> bytes:
        assert offset >= 0
        assert n > 0
        self.asked += n
        self.calls += 1
        return self._data[offset : offset + n]


def fuzz_header(data: bytes) -> None:
    for syntax in (IMPLICIT, EXPLICIT, BIG, DEFLATED, JPEG):
        for first, length in (
            (b"", len(data)),
            (data, len(data)),
            (data[:50], len(data)),
            (b"", len(data) + (1 << 33)),
        ):
            read = Counted(data)
            found = read_header(read, length, syntax, first)
            assert read.asked <= MAX_READ
            assert read.calls <= header.MAX_ELEMENTS + 2
            assert sum(map(len, msgspec.structs.astuple(found))) <= 20 * header.MAX_VALUE


def fuzz_meta(data: bytes) -> None:
    with contextlib.suppress(part10.NotPart10Error):
        meta = part10.read_meta(data)
        assert 132 <= meta.offset <= len(data)


def fuzz_seal(data: bytes) -> None:
    for value in (data, sealed(data), sealed(data[54:])):
        with contextlib.suppress(seals.BadSealError):
            assert seals.decode(value).version == seals.VERSION


def fuzz_config(data: bytes) -> None:
    with contextlib.suppress(configfile.ConfigError):
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
        configfile.parse(text)


def fuzz_local(data: bytes) -> None:
    async def nothing() -> object:
        return None

    async def no_studies(which: StudyFilter, most: int) -> list[StudyView]:
        assert isinstance(which, StudyFilter)
        assert isinstance(most, int)
        return []

    async def never(*_: object) -> None:
        raise AssertionError("nothing was handed over")

    class Refusing(Control):
        def __init__(self) -> None:
            super().__init__(msgspec.UNSET, lambda _: None)  # type: ignore[arg-type]

        async def act(self, verb: str, choice: Choice, *, who: str, reason: str = "", force: bool = False) -> int:
            assert verb
            assert who is not None
            assert reason is not None
            assert isinstance(choice, Choice)
            return int(force)

    server = LocalServer(Path(), nothing, no_studies, Refusing(), lambda *_: None, never)
    try:
        (reply,) = run_to_end(server._answer(data))
    except ValueError:  # whoever sends no text gets no answer
        return
    assert isinstance(reply, Reply)
    msgspec.json.encode(reply)


def run_to_end(coroutine: Any) -> tuple[Any]:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as e:
        return (e.value,)
    raise AssertionError("it waits")


def sealed(body: bytes) -> bytes:
    return seals._MAGIC + len(body).to_bytes(4, "big") + hashlib.sha256(body).digest() + body


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "pdu": fuzz_pdu,
    "command": fuzz_command,
    "header": fuzz_header,
    "meta": fuzz_meta,
    "seal": fuzz_seal,
    "config": fuzz_config,
    "local": fuzz_local,
}


# inputs


def corpus(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


EXTREMES: Final = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0xFFFE,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0xFFFFFFFE,
    0xFFFFFFFF,
)
WORDS: Final = (
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
    b"\xfe\xff\x0d\xe0\x00\x00\x00\x00",
    b"\xfe\xff\xdd\xe0\x00\x00\x00\x00",
    b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff",
    b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100",
    b"UN\x00\x00\xff\xff\xff\xff",
    b"[[[[[[[[",
    b'{"a":',
    b"\x1b$B",
    b"\xff\xfe\x00",
)


def mutate(data: bytes, choose: Callable[[int], int], others: list[bytes]) -> bytes:
    """Change ``data`` in a few places; ``choose(n)`` gives a number from 0 to n."""
    out = bytearray(data)
    for _ in range(1 + choose(4)):
        at = choose(len(out))
        match choose(8):
            case 0 if at < len(out):
                out[at] ^= 1 << choose(7)
            case 1 if at < len(out):
                out[at] = choose(255)
            case 2:
                out[at:at] = bytes(choose(255) for _ in range(1 + choose(7)))
            case 3:
                del out[at : at + 1 + choose(16)]
            case 4:
                end = at + choose(64)
                out[at:at] = out[at:end] * (1 + choose(3))
            case 5:
                other = others[choose(len(others) - 1)]
                start = choose(len(other))
                out[at:] = other[start:]
            case 6:
                size = (1, 2, 4)[choose(2)]
                value = EXTREMES[choose(len(EXTREMES) - 1)] & ((1 << 8 * size) - 1)
                out[at : at + size] = value.to_bytes(size, "big" if choose(1) else "little")
            case 7:
                out[at:at] = WORDS[choose(len(WORDS) - 1)]
            case _:
                del out[at:]
    return bytes(out[: 4 * LARGEST])


@st.composite
def inputs(draw: st.DrawFn, target: str) -> bytes:
    seeds = corpus(target)
    if draw(st.integers(0, 9)) == 9:
        return draw(st.binary(max_size=300))
    return mutate(draw(st.sampled_from(seeds)), lambda n: draw(st.integers(0, n)), seeds)


def check(target: str, data: bytes, seconds: float = MOST_SECONDS) -> None:
    begun = time.process_time()
    try:
        TARGETS[target](data)
    except BaseException as e:
        name = hashlib.sha256(data).hexdigest()[:8]
        e.add_note(f"Keep this as tests/corpus/{target}/<what it is>-{name}: bytes.fromhex({data.hex()!r})")
        e.add_note(f"EDGE_FUZZ_SEED={SEED}")
        raise
    assert time.process_time() - begun < seconds, f"{target} took too long over {data[:200]!r}"


@pytest.mark.parametrize("target", [*TARGETS, "wire"])
def test_the_corpus_is_small(target: str) -> None:
    files = list((CORPUS / target).iterdir())
    assert files
    assert max(path.stat().st_size for path in files) <= LARGEST
    assert sum(path.is_file() for path in CORPUS.rglob("*")) <= MOST_FILES


@pytest.mark.parametrize("target", TARGETS)
def test_what_once_failed_and_what_is_usual_is_taken(target: str) -> None:
    for data in corpus(target):
        check(target, data)


@pytest.mark.parametrize("target", TARGETS)
def test_edited_inputs_are_taken_or_refused(target: str) -> None:
    @settings(
        max_examples=max(EXAMPLES // 20, 60),
        deadline=None,
        derandomize=not EXAMPLES,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs(target))
    def fuzz(data: bytes) -> None:
        check(target, data)

    fuzz()


@pytest.mark.timeout(3600 if EXAMPLES else 120)
@pytest.mark.parametrize("target", TARGETS)
def test_many_inputs_are_taken_or_refused(target: str) -> None:
    numbers = random.Random(f"{SEED} {target}")
    seeds = corpus(target)
    for _ in range(EXAMPLES or 600):
        data = numbers.choice(seeds) if numbers.randrange(20) else numbers.randbytes(numbers.randrange(200))
        check(target, mutate(data, lambda n: numbers.randint(0, n), seeds))


# what is too large to be kept in files


def item(tag: int, length: int) -> bytes:
    return struct.pack("<HHL", 0xFFFE, tag, length)


def element(group: int, number: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    if vr in elements.LONG_VRS:
        return struct.pack("<HH2sHL", group, number, vr, 0, size) + value
    return struct.pack("<HH2sH", group, number, vr, size) + value


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


UNDEFINED: Final = 0xFFFFFFFF
OPEN: Final = element(0x0008, 0x1140, b"SQ", b"", UNDEFINED) + item(0xE000, UNDEFINED)
CLOSE: Final = item(0xE00D, 0) + item(0xE0DD, 0)
LAST: Final = element(0x0020, 0x0013, b"IS", b"7 ")

HUGE: Final[dict[str, tuple[str, bytes]]] = {
    "10 000 sequences, open": ("header", OPEN * 10_000),
    "10 000 sequences, closed": ("header", OPEN * 10_000 + CLOSE * 10_000 + LAST),
    "10 000 sequences under UN": (
        "header",
        (element(0x0009, 0x1010, b"UN", b"", UNDEFINED) + item(0xE000, UNDEFINED)) * 10_000,
    ),
    "100 000 empty elements": ("header", element(0x0008, 0x0001, b"LO", b"") * 100_000),
    "100 000 empty items": ("header", OPEN + item(0xE000, 0) * 100_000),
    "delimiters missing": ("header", (OPEN + element(0x0008, 0x1150, b"UI", b"1.2 ")) * 500 + LAST),
    "an element of 4 GiB": ("header", element(0x0009, 0x1010, b"OB", b"", 0xFFFFFFFE) + LAST),
    "a character set of 4 GiB": ("header", struct.pack("<HHL", 0x0008, 0x0005, 0xFFFFFFFE)),
    "a deflate bomb": ("header", deflated(bytes(64 << 20))),
    "a deflate bomb of elements": ("header", deflated(element(0x0008, 0x0001, b"LO", b"") * 4_000_000)),
    "a deflate bomb of sequences": ("header", deflated(OPEN * 100_000)),
    "128 KiB of contexts": ("pdu", bytes((0, 1)) + bytes(66) + (struct.pack(">BxHBxxx", 0x20, 4, 1)) * 16_000),
    "128 KiB of empty user items": (
        "pdu",
        bytes((0, 1)) + bytes(66) + struct.pack(">BxH", 0x50, 65_532) + bytes(65_532),
    ),
    "128 KiB of empty elements": ("command", struct.pack("<HHL", 0, 1, 0) * 16_000),
    "1 MiB of File Meta": ("meta", bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 1, b"UI", 0) * 130_000),
    "a seal of deep lists": ("seal", b'{"x":' + b"[" * 50_000),
    "a seal of deep lists, closed": ("seal", b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "deep brackets": ("config", b"a = " + b"[" * 20_000),
    "deep brackets, closed": ("config", b"a = " + b"[" * 20_000 + b"]" * 20_000),
    "deep tables": ("config", b"[" + b"a." * 5_000 + b"a]"),
    "a number of 10 000 digits": ("config", b"a = " + b"9" * 10_000),
    "a request of deep lists": ("local", b'{"command":"status","choice":{"destination":' + b"[" * 50_000),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_is_made_to_exhaust_does_not(name: str) -> None:
    target, data = HUGE[name]
    TARGETS[target](data[:100])  # imports and caches are not the input's
    tracemalloc.start()  # which makes everything slower by far
    try:
        check(target, data, 30.0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 16 * MAX_READ + 40 * (0 if target == "header" else len(data)), f"{peak >> 10} KiB at the most"


# on the wire


class Anyone:
    """A policy that lets in and takes everything."""

    def admit(self, request: AssociateRequest, address: str) -> AssociateReject | None:
        del request, address
        return None

    def offers(self, abstract_syntax: str) -> bool:
        return abstract_syntax == CT

    def knows(self, transfer_syntax: str, abstract_syntax: str) -> bool:
        del abstract_syntax
        return transfer_syntax in {IMPLICIT, EXPLICIT}

    def privileged(self, request: AssociateRequest, address: str) -> bool:
        del request, address
        return False

    def report(self, peer: Peer, text: str) -> None:
        del peer
        assert text

    def limit(self, peer: Peer, text: str) -> None:
        del peer
        assert text

    def count(self, associations: int) -> None:
        assert associations >= 0


async def swallow(association: Association, message: Message, _peer: Peer, /) -> None:
    if message.command.has_dataset:
        await association.receive_dataset(message, Discard())
    association.send_command(message.context.id, dimse.response(message.command, 0))


def request(*contexts: tuple[int, str, str]) -> bytes:
    return pdu.encode_request(
        AssociateRequest(
            called="EDGE",
            calling="FUZZ",
            contexts=tuple(pdu.ProposedContext(i, abstract, (syntax,)) for i, abstract, syntax in contexts),
            user=pdu.UserInformation(max_pdu=16384),
        )
    )


def p_data(context: int, control: int, data: bytes) -> bytes:
    return struct.pack(">BxLLBB", 4, len(data) + 6, len(data) + 2, context, control) + data


ASSOCIATE: Final = request((1, VERIFICATION, IMPLICIT), (3, CT, EXPLICIT))
ECHO: Final = p_data(1, pdu.COMMAND | pdu.LAST, dimse.echo_request(1))
STORE: Final = p_data(3, pdu.COMMAND | pdu.LAST, dimse.store_request(2, CT, "1.2.3"))
DATASET: Final = element(0x0008, 0x0016, b"UI", CT.encode() + b"\0") + element(0x0008, 0x0018, b"UI", b"1.2.3\0") + LAST


async def converse(streams: list[tuple[bytes, int]]) -> None:
    """Send each stream on a connection of its own, in pieces; after each, and at the end, the acceptor still serves."""
    clock = SystemClock()
    journal = Journal(clock)
    supervisor = Supervisor(journal, clock)
    acceptor = Acceptor(
        Anyone(),
        {CommandField.C_STORE_RQ: swallow},
        spawn=supervisor.spawn,
        limits=Limits(request=2.0, idle=2.0, response=2.0, artim=0.2),
        capacity=Capacity(associations=4, per_address=4),
    )
    port = await acceptor.listen("127.0.0.1", 0)
    try:
        for stream, piece in streams:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                for start in range(0, len(stream), piece):
                    writer.write(stream[start : start + piece])
                    await writer.drain()
                    await asyncio.sleep(0)
                writer.write_eof()
                async with asyncio.timeout(10):
                    while await reader.read(65536):
                        pass
            writer.close()
            await echo(port)
        async with asyncio.timeout(10):
            while acceptor._connections:  # noqa: ASYNC110 - it does not tell
                await asyncio.sleep(0.001)
    finally:
        await acceptor.close(1.0)
        await supervisor.settle(1.0)
    assert not journal.open(), "a task of the acceptor failed"


async def echo(port: int) -> None:
    """Be the next peer, who is served."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ASSOCIATE + ECHO)
        kinds: list[int] = []
        body = b""
        while len(kinds) < 2:
            head = await reader.readexactly(6)
            kind, length = pdu.HEADER.unpack(head)
            kinds.append(kind)
            body = await reader.readexactly(length)
        assert kinds == [pdu.PDUType.ASSOCIATE_AC, pdu.PDUType.P_DATA_TF]
        assert dimse.decode(body[6:]).status == 0
        writer.write(pdu.RELEASE_RQ)
        assert await reader.readexactly(10) == pdu.RELEASE_RP
        writer.close()


def test_the_acceptor_ends_what_makes_no_sense_and_serves_the_next() -> None:
    numbers = random.Random(f"{SEED} wire")
    seeds = corpus("wire")
    batch = 20
    for _ in range(max(EXAMPLES // batch // 10, 8)):
        streams = [
            (mutate(numbers.choice(seeds), lambda n: numbers.randint(0, n), seeds), numbers.choice((1 << 20, 100, 7)))
            for _ in range(batch)
        ]
        try:
            asyncio.run(converse(streams))
        except BaseException as e:
            e.add_note(f"EDGE_FUZZ_SEED={SEED}; one of " + "\n".join(stream.hex() for stream, _ in streams))
            raise


@pytest.mark.parametrize("size", [1 << 20, 11])
def test_the_acceptor_serves_after_every_stream_of_the_corpus(size: int) -> None:
    asyncio.run(converse([(stream, size) for stream in corpus("wire")]))


# the seeds, from our own encoders


def write_seeds() -> None:
    """Write the seeds; what once failed stays as it is."""
    user = pdu.UserInformation(
        max_pdu=16384, async_window=(1, 1), roles=(pdu.Role(CT, scu=True, scp=True),), identity_response=True
    )
    accept = pdu.AssociateAccept(
        contexts=(pdu.AnsweredContext(1, 0, IMPLICIT), pdu.AnsweredContext(3, 4, "")), user=user
    )
    asked = pdu.AssociateRequest(
        called="EDGE", calling="CT1", contexts=(pdu.ProposedContext(1, CT, (IMPLICIT, EXPLICIT)),), user=user
    )
    common = struct.pack(">BxHH", 0x57, 4 + len(CT) + 17, len(CT)) + CT.encode() + struct.pack(">H", 17)
    common += b"1.2.840.10008.4.2"
    identity = struct.pack(">BxHBBH", 0x58, 10, 2, 1, 4) + b"name\0\0"
    command = dimse.decode(dimse.store_request(7, CT, "1.2.3", 1))
    text = [
        element(0x0008, 0x0005, b"CS", b"\\ISO 2022 IR 87"),
        element(0x0008, 0x0016, b"UI", CT.encode() + b"\0"),
        element(0x0008, 0x0018, b"UI", b"1.2.3\0"),
        element(0x0008, 0x0060, b"CS", b"CT"),
        element(0x0008, 0x1140, b"SQ", b"", UNDEFINED) + item(0xE000, UNDEFINED) + LAST + CLOSE,
        element(0x0009, 0x1010, b"UN", b"", UNDEFINED) + item(0xE000, 4) + b"abcd" + item(0xE0DD, 0),
        element(0x0010, 0x0010, b"PN", b"Nobody^At All\x1b$B;3ED\x1b(B "),
        element(0x0020, 0x000D, b"UI", b"1.2.3.4\0"),
        element(0x0020, 0x000E, b"UI", b"1.2.3.5\0"),
        LAST,
        element(0x7FE0, 0x0010, b"OW", bytes(32)),
    ]
    explicit = b"".join(text)
    uid, name, last = (8, 0x18, b"UI", b"1.2.3\0"), (0x10, 0x10, b"PN", b"A^B "), (0x20, 0x13, b"IS", b"7 ")
    known = ((8, 0x16, b"UI", CT.encode() + b"\0"), uid, name, last)
    implicit = b"".join(struct.pack("<HHL", g, e, len(v)) + v for g, e, _, v in known)
    big = b"".join(struct.pack(">HH2sH", g, e, vr, len(v)) + v for g, e, vr, v in known[1:])
    seal = seals.encode(
        seals.Seal(
            id=1 << 20,
            length=len(explicit),
            digest=hashlib.sha256(explicit).digest(),
            source=Source(door="dimse", calling="CT1", called="EDGE", address="10.0.0.7"),
            received_at=1_800_000_000.0,
            clock_trusted=True,
            legs=(Leg("pacs", 1, needs_proof=True),),
        )
    )
    head = part10.begin(CT, "1.2.3", EXPLICIT, seals.room(2, Source(door="dimse")))
    file = part10.sealed(head, source="EDGE", sending="CT1", receiving="EDGE", private=seal)
    config = """[device]\nname = "north"\n[storage]\npath = "/var/lib/dicom-edge"\nreserve = "2 GiB"
[receive]\nae_title = "EDGE"\nport = 11112\n[[modality]]\nname = "ct"\nae_title = "CT1"\naddress = "10.0.0.7"
[[destination]]\nname = "pacs"\ntype = "dimse"\nhost = "pacs.example"\nae_title = "PACS"\nport = 104
[[route]]\nto = ["pacs"]\npriority = "stat"\n"""
    asking = {"command": "hold", "choice": {"destination": "pacs", "uid": "1.2", "delivery": 3}, "reason": "x"}
    everything = {
        "pdu": {
            "request": pdu.encode_request(asked)[6:],
            "request-of-extended-negotiation": pdu.encode_request(asked)[6:-4] + common + identity,
            "accept": pdu.encode_accept(accept)[6:],
            "reject": pdu.encode_reject(AssociateReject(1, 1, 7))[6:],
            "abort": pdu.encode_abort(pdu.Abort(2, 1))[6:],
        },
        "command": {
            "store-request": dimse.store_request(7, CT, "1.2.3", 1),
            "store-response": dimse.response(command, 0xA700, "no room"),
            "echo-request": dimse.echo_request(1),
        },
        "header": {
            "explicit": explicit,
            "implicit": implicit,
            "big-endian": big,
            "deflated": deflated(explicit),
            "deflated-implicit": deflated(implicit),
            "deep": OPEN * 30 + CLOSE * 30 + LAST,
            "deeper-than-allowed": OPEN * 70 + CLOSE * 70 + LAST,
            "delimiter-missing": OPEN * 3 + LAST,
            "length-of-4-gib": explicit[:60] + element(0x0009, 0x1010, b"OB", b"", 0xFFFFFFFE),
            "private-vr-undefined": element(0x0009, 0x0010, b"UN", b"", UNDEFINED) + implicit,
            "character-sets": element(0x0008, 0x0005, b"CS", b"GB18030\\ISO_IR 192 ") + text[6] + LAST,
        },
        "meta": {"file": file[:2000], "head": head.data[:2000], "cut": file[:300]},
        "seal": {"seal": seal, "padded": seal + bytes(100), "body": seal[54:]},
        "config": {
            "whole": config.encode(),
            "arrays": b'a = [1, [2, "x"], {b = 1.5, c = 1979-05-27}]\n"d e".f = """x\\n"""\n',
            "with-mark": b"\xef\xbb\xbf" + config.encode()[:80],
        },
        "local": {"hold": json.dumps(asking).encode(), "status": b'{"command":"status"}\n'},
        "wire": {
            "echo": ASSOCIATE + ECHO + pdu.RELEASE_RQ,
            "store": ASSOCIATE + STORE + p_data(3, pdu.LAST, DATASET) + ECHO + pdu.RELEASE_RQ,
            "store-in-fragments": ASSOCIATE + STORE + p_data(3, 0, DATASET[:9]) + p_data(3, pdu.LAST, DATASET[9:]),
            "store-aborted": ASSOCIATE + STORE + p_data(3, 0, DATASET) + pdu.encode_abort(pdu.Abort(0, 0)),
            "pdu-of-4-gib": ASSOCIATE + b"\4\0\xff\xff\xff\xff" + bytes(100),
            "request-of-4-gib": b"\1\0\xff\xff\xff\xff" + bytes(100),
        },
    }
    for target, seeds in everything.items():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for file_name, data in seeds.items():
            (CORPUS / target / file_name).write_bytes(data)


if __name__ == "__main__":
    write_seeds()
