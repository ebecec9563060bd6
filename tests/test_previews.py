"""The worker of previews: what it costs others, which must be nothing, and what becomes of it."""

import ast
import asyncio
import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

import edge.preview
from edge.preview import LARGE, SMALL, NoPicture, Picture, Previews, Reason
from edge.preview.answer import Answer, decode, encode
from edge.preview.cache import Cache
from edge.preview.previews import MOST_EACH, MOST_KEPT, MOST_WAITING
from edge.preview.worker import COMMAND, Worker
from tests.fakes import ManualClock
from tests.peers.ports import wait_for
from tests.pictures import compressed, dataset, of_array, part10, rle

STUBBORN = "import os, time; os.write(1, bytes(4)); time.sleep(3600)"


def script(source: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-c", source)


def patient(command: Sequence[str] = COMMAND) -> Worker:
    return Worker(ManualClock(), command, starting=30.0, patience=20.0)


def saying(data: bytes) -> tuple[str, ...]:
    """A worker that says ``data`` to the first request."""
    return script(f"import os; os.write(1, bytes(4)); os.read(0, 1); os.write(1, {data!r})")


def image(value: int = 0) -> bytes:
    return of_array(np.full((16, 16), value, "u1"), WindowCenter=128, WindowWidth=256)


class FakeWorker:
    """One that answers when it is let, and knows what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.closed = 0
        self.go = asyncio.Event()
        self.go.set()
        self.answer: Answer = Picture(b"RIFF....WEBP", 1, 1)

    async def ask(self, path: Path, side: int) -> Answer:
        self.asked.append((path.name, side))
        await self.go.wait()
        return self.answer

    async def close(self) -> None:
        self.closed += 1


@asynccontextmanager
async def running(worker: Any, folder: Path = Path("/nowhere"), **more: float) -> AsyncIterator[Previews]:
    previews = Previews(lambda number: folder / f"{number}.dcm", ManualClock(), worker, **more)
    task = asyncio.create_task(previews.run())
    try:
        yield previews
    finally:
        await previews.close()
        await task


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    made = patient()
    yield made
    await made.close()


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# the process


async def test_the_worker_makes_the_picture_that_the_file_holds(worker: Worker, tmp_path: Path) -> None:
    answer = await worker.ask(write(tmp_path, "a", image(200)), SMALL)
    assert isinstance(answer, Picture)
    opened = Image.open(io.BytesIO(answer.data)).convert("L")
    assert opened.size == (16, 16)
    assert opened.getpixel((8, 8)) == pytest.approx(200, abs=3)


async def test_the_worker_lets_everybody_go_first_and_cannot_grow(worker: Worker, tmp_path: Path) -> None:
    await worker.ask(write(tmp_path, "a", image()), SMALL)
    assert worker.pid is not None
    process = psutil.Process(worker.pid)
    assert process.nice() == 19
    assert os.sched_getscheduler(worker.pid) == os.SCHED_IDLE
    assert _kernel_says(worker.pid, "oom_score_adj") == "1000"
    most = resource.prlimit(worker.pid, resource.RLIMIT_AS)[1]
    assert process.memory_info().vms < most < process.memory_info().vms + (300 << 20)
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        assert resource.prlimit(worker.pid, limit) == (0, 0)
    assert 0 < resource.prlimit(worker.pid, resource.RLIMIT_CPU)[0] < 60
    assert process.num_threads() == 1


async def test_the_worker_has_no_file_nor_connection_of_the_appliance(worker: Worker, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as ours, pytest.MonkeyPatch.context() as patch:
        assert not os.get_inheritable(ours.fileno())
        patch.setenv("EDGE_SECRET", "x")
        await worker.ask(write(tmp_path, "a", image()), SMALL)
        process = psutil.Process(worker.pid)
        assert not process.open_files()
        assert not process.net_connections("inet")
        assert "EDGE_SECRET" not in process.environ()


async def test_a_file_that_is_not_there_is_gone(worker: Worker, tmp_path: Path) -> None:
    assert await worker.ask(tmp_path / "nothing", SMALL) == NoPicture(Reason.GONE)
    assert await worker.ask(tmp_path, SMALL) == NoPicture(Reason.GONE)


async def test_a_worker_that_is_killed_at_work_costs_one_preview(tmp_path: Path) -> None:
    worker = patient()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # opening it waits for ever, as a dying card does
    asking = asyncio.create_task(worker.ask(fifo, SMALL))
    await asyncio.to_thread(wait_for, lambda: worker.pid, 30, "a worker")
    pid = worker.pid
    assert pid is not None
    writer = await asyncio.to_thread(wait_for, lambda: _writer(fifo), 30, "a worker that opens the file")
    os.kill(pid, signal.SIGSEGV)
    assert await asking == NoPicture(Reason.CRASHED)
    assert writer is not None
    os.close(writer)
    assert isinstance(await worker.ask(write(tmp_path, "a", image()), SMALL), Picture)
    assert worker.pid not in {None, pid}
    await worker.close()


def _kernel_says(pid: int, what: str) -> str:
    return Path(f"/proc/{pid}/{what}").read_text().strip()


def _writer(fifo: Path) -> int | None:
    """The other end, once somebody reads."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


async def test_a_worker_that_is_late_is_killed_and_started_anew(tmp_path: Path) -> None:
    worker = Worker(ManualClock(), starting=30, patience=0.3)
    os.mkfifo(tmp_path / "fifo")
    assert await worker.ask(tmp_path / "fifo", SMALL) == NoPicture(Reason.SLOW)
    assert worker.pid is None
    assert not psutil.Process().children()
    worker._patience = 20
    assert isinstance(await worker.ask(write(tmp_path, "a", image()), SMALL), Picture)
    await worker.close()


async def test_a_request_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    worker = Worker(ManualClock(), script(STUBBORN), starting=30, patience=60)
    asking = asyncio.create_task(worker.ask(tmp_path, SMALL))
    await asyncio.to_thread(wait_for, lambda: worker.pid, 30, "a worker")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not psutil.Process().children()


async def test_memory_that_a_file_wants_is_refused_and_the_worker_lives(worker: Worker, tmp_path: Path) -> None:
    run = rle(bytes([129, 7]) * (8 << 20))  # becomes 1 GiB
    bomb = write(tmp_path, "bomb", compressed(dataset(64, 64, bits=8), run))
    answer = await worker.ask(bomb, SMALL)
    assert isinstance(answer, NoPicture)
    assert answer.reason in {Reason.TOO_LARGE, Reason.DAMAGED}
    assert worker.pid is not None
    assert psutil.Process(worker.pid).memory_info().rss < 400 << 20
    assert isinstance(await worker.ask(write(tmp_path, "a", image()), SMALL), Picture)


async def test_a_value_larger_than_memory_is_too_large(worker: Worker, tmp_path: Path) -> None:
    head = part10(dataset(8, 8, bits=8)) + b"\x28\0\x50\x10UN\0\0" + (1 << 30).to_bytes(4, "little")
    path = tmp_path / "bomb"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + (1 << 30))
    assert await worker.ask(path, SMALL) == NoPicture(Reason.TOO_LARGE)


async def test_a_very_large_frame_is_shown_within_the_memory_of_the_worker(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "large"
    head = part10(dataset(20_000, 20_000), bytes(4))
    with path.open("wb") as file:
        file.write(head[:-8] + (800_000_000).to_bytes(4, "little"))
        file.truncate(len(head) - 4 + 800_000_000)
    answer = await worker.ask(path, SMALL)
    assert isinstance(answer, Picture)
    assert (answer.width, answer.height) == (256, 256)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"])
async def test_the_largest_compressed_frame_fits_the_memory_of_the_worker(
    worker: Worker, tmp_path: Path, syntax: str
) -> None:
    buffer = io.BytesIO()
    if syntax.endswith(".5"):
        of = dataset(4800, 5200)
        frame = rle(*(bytes([129, 7]) * (4800 * 5200 // 128) for _ in range(2)))
    else:
        of = dataset(2500, 3000, bits=8, samples=3)
        of.PhotometricInterpretation = "YBR_FULL_422" if syntax.endswith(".50") else "YBR_RCT"
        Image.new("RGB", (3000, 2500), (9, 99, 199)).save(buffer, "JPEG" if syntax.endswith(".50") else "JPEG2000")
        frame = buffer.getvalue()
    answer = await worker.ask(write(tmp_path, "a", compressed(of, frame, syntax=syntax)), LARGE)
    assert isinstance(answer, Picture), answer


# a worker that cannot be believed


@pytest.mark.parametrize(
    "said",
    [
        (1 << 31).to_bytes(4, "big"),
        (5).to_bytes(4, "big") + b"hello",
        (100).to_bytes(4, "big") + b"cut",
        b"",
        encode(Picture(b"<script>", 1, 1)),
        encode(Picture(b"RIFF....WEBP", 4000, 1)),
    ],
)
async def test_what_is_no_answer_is_a_crash(said: bytes, tmp_path: Path) -> None:
    worker = patient(saying(said))
    assert await worker.ask(tmp_path, SMALL) == NoPicture(Reason.CRASHED)
    assert worker.pid is None


@pytest.mark.parametrize(
    "command", [("/nonexistent",), script("raise SystemExit(1)"), script("import time; time.sleep(60)")]
)
async def test_a_worker_that_does_not_start_is_tried_once_a_minute(command: tuple[str, ...], tmp_path: Path) -> None:
    clock = ManualClock()
    worker = Worker(clock, command, starting=0.5, patience=20)
    assert await worker.ask(tmp_path, SMALL) == NoPicture(Reason.UNAVAILABLE)
    worker._command = ("/would/raise",)
    began = worker._not_before
    assert await worker.ask(tmp_path, SMALL) == NoPicture(Reason.UNAVAILABLE)
    assert worker._not_before == began == clock.monotonic() + 60
    clock.pass_time(61)
    worker._command = saying(encode(NoPicture(Reason.OTHER)))
    worker._starting = 30
    assert await worker.ask(tmp_path, SMALL) == NoPicture(Reason.OTHER)
    await worker.close()


def test_answers_are_what_was_said() -> None:
    for answer in (Picture(b"RIFF1234WEBP...", 3, 4), NoPicture(Reason.TOO_LARGE)):
        assert decode(encode(answer)[4:]) == answer


# the queue


async def test_what_was_made_is_not_made_again() -> None:
    fake = FakeWorker()
    async with running(fake) as previews:
        first = await previews.of_object(1)
        assert await previews.of_object(1) is first
        await previews.of_object(1, LARGE)
    assert fake.asked == [("1.dcm", SMALL), ("1.dcm", LARGE)]


async def test_many_who_want_one_picture_wait_for_one() -> None:
    fake = FakeWorker()
    fake.go.clear()
    async with running(fake) as previews:
        tasks = [asyncio.create_task(previews.of_object(1, client=str(i))) for i in range(50)]
        await asyncio.to_thread(wait_for, lambda: fake.asked, 5, "a request")
        fake.go.set()
        assert len(set(map(id, await asyncio.gather(*tasks)))) == 1
    assert fake.asked == [("1.dcm", SMALL)]


async def test_the_newest_request_goes_first_and_old_ones_of_one_client_give_way() -> None:
    fake = FakeWorker()
    fake.go.clear()
    async with running(fake) as previews:
        tasks = [asyncio.create_task(previews.of_object(0, client="other"))]
        await asyncio.to_thread(wait_for, lambda: fake.asked, 5, "a request")
        tasks += [asyncio.create_task(previews.of_object(n, client="one")) for n in range(1, MOST_EACH + 4)]
        await asyncio.gather(*tasks[1:4])
        fake.go.set()
        answers = await asyncio.gather(*tasks)
    assert [a == NoPicture(Reason.BUSY) for a in answers] == [False] + [True] * 3 + [False] * MOST_EACH
    assert fake.asked[:3] == [("0.dcm", SMALL), (f"{MOST_EACH + 3}.dcm", SMALL), (f"{MOST_EACH + 2}.dcm", SMALL)]


async def test_a_flood_is_bounded_and_everybody_is_answered() -> None:
    fake = FakeWorker()
    fake.go.clear()
    async with running(fake) as previews:
        tasks = [asyncio.create_task(previews.of_object(n, client=str(n))) for n in range(1000)]
        await asyncio.to_thread(wait_for, lambda: fake.asked, 5, "a request")
        assert len(previews._jobs) <= MOST_WAITING
        fake.go.set()
        answers = await asyncio.gather(*tasks)
    assert sum(isinstance(a, Picture) for a in answers) == len(fake.asked) <= MOST_WAITING + 1


async def test_a_flood_of_real_files_is_answered_by_one_process(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path, f"{number}.dcm", image(number))
    worker = patient()
    async with running(worker, tmp_path) as previews:
        answers = await asyncio.gather(*(previews.of_object(n % 40, client=str(n)) for n in range(1000)))
        assert len(psutil.Process().children()) == 1
    assert all(isinstance(answer, Picture) for answer in answers)
    assert not psutil.Process().children()


async def test_who_looks_away_leaves_no_work() -> None:
    fake = FakeWorker()
    fake.go.clear()
    async with running(fake) as previews:
        first = asyncio.create_task(previews.of_object(1))
        await asyncio.to_thread(wait_for, lambda: fake.asked, 5, "a request")
        second = asyncio.create_task(previews.of_object(2))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        fake.go.set()
        await first
    assert fake.asked == [("1.dcm", SMALL)]


async def test_the_worker_ends_when_nobody_asks_for_a_minute(tmp_path: Path) -> None:
    write(tmp_path, "1.dcm", image())
    write(tmp_path, "2.dcm", image())
    worker = patient()
    async with running(worker, tmp_path, idle=0.05) as previews:
        await previews.of_object(1)
        await asyncio.to_thread(wait_for, lambda: not psutil.Process().children(), 10, "an end of the worker")
        assert isinstance(await previews.of_object(2), Picture)


async def test_nobody_waits_for_ever() -> None:
    previews = Previews(lambda number: Path(str(number)), ManualClock(), longest=0.05)
    assert await previews.of_object(1) == NoPicture(Reason.BUSY)
    assert not previews._jobs


async def test_closing_answers_whoever_waits() -> None:
    fake = FakeWorker()
    fake.go.clear()
    async with running(fake) as previews:
        tasks = [asyncio.create_task(previews.of_object(n)) for n in range(3)]
        await asyncio.to_thread(wait_for, lambda: fake.asked, 5, "a request")
        closing = asyncio.create_task(previews.close())
        assert await asyncio.gather(*tasks) == [NoPicture(Reason.UNAVAILABLE)] * 3
        await closing
        assert await previews.of_object(9) == NoPicture(Reason.UNAVAILABLE)
        fake.go.set()


async def test_another_size_is_refused() -> None:
    previews = Previews(lambda number: Path(str(number)), ManualClock())
    with pytest.raises(ValueError, match="256 or 512"):
        await previews.of_object(1, 4000)


# the cache


def test_the_cache_keeps_what_was_used_last_within_its_bytes() -> None:
    cache = Cache(10_000, ManualClock())
    for number in range(10):
        cache.put((number, SMALL), Picture(bytes(2000), 1, 1))
        cache.get((0, SMALL))
        assert cache.bytes <= 10_000
    assert [n for n in range(10) if cache.get((n, SMALL))] == [0, 8, 9]
    cache.put((1, SMALL), Picture(bytes(20_000), 1, 1))
    assert cache.bytes == 0


def test_the_cache_believes_reasons_as_long_as_they_hold() -> None:
    clock = ManualClock()
    cache = Cache(MOST_KEPT, clock)
    for number, reason in enumerate(Reason):
        cache.put((number, SMALL), NoPicture(reason))
    gone = {Reason.BUSY, Reason.GONE, Reason.UNAVAILABLE}
    kept = {reason for number, reason in enumerate(Reason) if cache.get((number, SMALL))}
    assert kept == set(Reason) - gone
    clock.pass_time(301)
    kept = {reason for number, reason in enumerate(Reason) if cache.get((number, SMALL))}
    assert kept == set(Reason) - gone - {Reason.SLOW, Reason.CRASHED}


# never in the way of intake


def test_the_appliance_loads_none_of_what_makes_pictures() -> None:
    source = "import sys, edge.app.appliance, edge.preview; print(*{'numpy', 'PIL', 'pydicom'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_the_event_loop_reads_no_file_and_no_image() -> None:
    folder = Path(edge.preview.__file__).parent
    for name in ("previews", "worker", "cache", "answer", "__init__"):
        tree = ast.parse((folder / f"{name}.py").read_text())
        called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
        names = {
            f.attr if isinstance(f, ast.Attribute) else f.id for f in called if isinstance(f, ast.Attribute | ast.Name)
        }
        assert not names & {"open", "read_bytes", "stat", "exists", "Popen", "run", "fork", "to_thread", "sleep"}, name


async def test_the_loop_turns_while_a_picture_is_made(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.dcm")
    worker = patient()
    async with running(worker, tmp_path) as previews:
        asking = asyncio.create_task(previews.of_object(1))
        await asyncio.to_thread(wait_for, lambda: worker.pid, 30, "a worker")
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not asking.done()
        await previews.close()
        assert await asking == NoPicture(Reason.UNAVAILABLE)


def test_who_uses_up_its_seconds_of_the_processor_is_killed_by_the_kernel() -> None:
    source = """from edge.preview import limits
limits._CPU_SECONDS = 0
limits.begin_request()
while True: pass"""
    run = subprocess.run([sys.executable, "-I", "-c", source], check=False, timeout=60)
    assert run.returncode == -signal.SIGXCPU


def test_the_worker_ends_with_its_input() -> None:
    began = time.monotonic()
    run = subprocess.run([sys.executable, "-m", "edge.preview"], input=b"", capture_output=True, check=True, timeout=60)
    assert run.stdout == bytes(4)
    assert time.monotonic() - began < 60
