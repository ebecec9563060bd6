"""What is remembered of files that were taken: by media that change their names, and as long as it must be."""

import asyncio
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from edge.board import Board
from edge.config import Watch
from edge.findings import Journal
from edge.intake import answers, sweep, taking, tree
from edge.intake.answers import Answers
from edge.intake.fate import Fate, Result
from edge.intake.folder import FolderWatch
from edge.intake.sweep import EVERY, Sweep
from edge.intake.taker import Taker
from edge.intake.taking import Taking
from edge.intake.tree import walk
from edge.model import Origin
from edge.store import Store, StoreError, taken
from tests.appliance import Edge, dimse
from tests.fakes import ManualClock
from tests.peers.objects import DicomObject, mr
from tests.peers.ports import wait_for
from tests.peers.raw import RawReceiver

PLACE = "watch us"
DAY = 86400.0
HOURS = 24
"""In place of a month's."""

# media


@pytest.fixture
def pacs() -> Iterator[RawReceiver]:
    with RawReceiver() as receiver:
        yield receiver


def write(folder: Path, objects: list[DicomObject]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(objects):
        one.write(folder / f"IM{number:05}")
    return folder


def run(edge: Edge, *arguments: object) -> dict[str, Any]:
    return dict(edge.json("import", *map(str, arguments)))


def summary(*, taken: int = 0, already: int = 0) -> dict[str, Any]:
    return {"taken": taken, "already_there": already, "not_dicom": 0, "refused": 0, "reasons": []}


@pytest.mark.rig
def test_a_stick_that_gets_another_name_and_other_inodes_is_not_taken_again(tmp_path: Path, pacs: RawReceiver) -> None:
    objects = mr(3)
    media = write(tmp_path / "sdb1" / "DICOM", objects).parent
    with zipfile.ZipFile(media / "more.zip", "w") as archive:
        archive.writestr("IM", (more := mr(1))[0].write(tmp_path / "x").read_bytes())
    with Edge(tmp_path / "box", dimse("pacs", pacs.port), store='keep_delivered = "0s"') as edge:
        assert run(edge, media) == summary(taken=4)
        wait_for(lambda: not edge.spooled() and edge.tally("pacs") == {"accepted": 4}, 30, "delivered and deleted")
        other = tmp_path / "sdc1"
        shutil.copytree(media, other, copy_function=shutil.copyfile)
        media.rename(tmp_path / "away")
        assert run(edge, other) == summary(already=4)
        # of the same names, and of one that is told apart by its bytes alone
        (fresh,) = mr(1)
        fresh.write(other / "DICOM" / "IM00000")
        assert run(edge, other) == summary(taken=1, already=3)
        pacs.wait(5, 20)
        wait_for(lambda: not edge.spooled(), 30, "deleted")
        assert run(edge, other, "--again") == summary(taken=4)
        pacs.wait(9, 20)
    sent = [*objects, *objects[1:], *more, *more, fresh, fresh]
    assert Counter(one.digest for one in pacs.received) == Counter(one.wire_digest for one in sent)


# watched folders


class Watched:
    """A folder whose files were all taken, and its sweep; a sweep is due at each look."""

    def __init__(self, root: Path, store: Store, clock: ManualClock) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        self.store = store
        self.clock = clock
        self.restart()

    def restart(self) -> None:
        self.sweep = Sweep(self.root, PLACE, self.store, work, self.clock)

    async def take(self, *names: str, content: str = "") -> None:
        """Write files and take them."""
        await self.look()
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        for entry in walk(self.root, "done"):
            if not entry.odd:
                await self.store.remember(entry.origin(PLACE))

    async def look(self) -> None:
        self.clock.pass_time(EVERY)
        await self.sweep.begin()
        self.sweep.see(list(walk(self.root, "done")))
        await self.sweep.end()

    async def remembered(self) -> list[str]:
        return [row.path for row in await self.store.taken_after(PLACE, "", 10_000)]


async def work(job: Callable[[], Any]) -> Any:
    return job()


@pytest.fixture
async def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(sweep, "MOST_HOURS", HOURS)
    clock = ManualClock()
    store = await Store.open(tmp_path / "box", clock, 1, lambda number: tmp_path / f"{number}.dcm")
    running = asyncio.create_task(store.run())
    yield Watched(tmp_path / "export", store, clock)
    store.finish()
    await running
    await store.close()


async def test_files_that_are_gone_are_forgotten_and_others_are_not(watched: Watched) -> None:
    await watched.take("a", "b/c", "b/d")
    (watched.root / "a").unlink()
    (watched.root / "b" / "d").unlink()
    await watched.look()
    assert await watched.remembered() == ["b/c"]


async def test_names_that_are_no_utf_8_are_remembered_as_long_as_they_are_there(watched: Watched) -> None:
    names = [os.fsdecode(name) for name in (b"M\xfcller", b"caf\xe9/IM1", b"a\xe4!b/IM2")]
    await watched.take(*names)
    await watched.look()
    assert await watched.remembered() == sorted(map(tree.plain, names))
    (watched.root / names[0]).unlink()
    await watched.look()
    assert await watched.remembered() == sorted(map(tree.plain, names[1:]))


async def test_members_of_an_archive_are_remembered_as_long_as_the_archive_is_there(watched: Watched) -> None:
    await watched.take("x!y/study.zip", "other")
    (archive,) = [entry for entry in walk(watched.root) if entry.path != "other"]
    for member in ("IM1", "../IM2", "a!b/" + 300 * "n"):
        row = tree.Entry(f"{archive.path}!{member}", archive.inode, archive.size).origin(PLACE)
        await watched.store.remember(row)
    await watched.look()
    assert len(await watched.remembered()) == 5
    (watched.root / archive.path).unlink()
    await watched.look()
    assert await watched.remembered() == ["other"]


async def test_below_what_cannot_be_looked_into_nothing_is_forgotten(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = os.fsdecode(b"clos\xe9d")
    await watched.take(f"{closed}/IM1", "open/IM2", "left")
    shutil.rmtree(watched.root / "open")
    opening = os.open

    def fail(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if path == closed:
            raise OSError(116, "Stale file handle")
        return opening(path, flags, *args, **more)

    monkeypatch.setattr(os, "open", fail)
    await watched.look()
    assert await watched.remembered() == [tree.plain(f"{closed}/IM1"), "left"]


async def test_deep_paths_longer_than_the_system_takes_are_looked_at(watched: Watched) -> None:
    folder = "/".join(["d" * 200] * 30)
    await watched.take("left")
    opened = os.open(watched.root, os.O_RDONLY)
    for part in folder.split("/"):
        os.mkdir(part, dir_fd=opened)
        opened = os.open(part, os.O_RDONLY, dir_fd=opened)
    os.close(os.open("IM1", os.O_CREAT | os.O_WRONLY, dir_fd=opened))
    await watched.take()
    await watched.look()
    assert f"{folder}/IM1" in await watched.remembered()
    assert not tree.gone(watched.root, f"{folder}/IM1")
    os.unlink("IM1", dir_fd=opened)
    await watched.look()
    assert await watched.remembered() == ["left"]


async def test_a_folder_that_is_empty_or_in_another_file_system_is_not_believed_for_long(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    await watched.take("stuck")
    share = watched.root.rename(watched.root.with_name("share"))
    watched.root.mkdir()
    await watched.look()
    assert await watched.remembered() == ["stuck"]  # nothing at all is seen
    (watched.root / "local").touch()
    with monkeypatch.context() as patch:
        patch.setattr(tree, "device", lambda _: 77)
        watched.restart()
        await watched.look()
        assert await watched.remembered() == ["stuck"]  # another file system
    shutil.rmtree(watched.root)
    share.rename(watched.root)
    await watched.look()
    assert await watched.remembered() == ["stuck"]
    (watched.root / "stuck").rename(watched.root / "again")
    for _ in range(HOURS - 5):
        await watched.look()
    watched.restart()
    assert await watched.remembered() == ["stuck"]
    for _ in range(5):
        await watched.look()
    assert await watched.remembered() == []


async def test_what_an_emptied_folder_held_is_forgotten_when_something_comes_or_in_the_end(watched: Watched) -> None:
    for end in ("something", "time"):
        await watched.take("old")
        (watched.root / "old").unlink()
        await watched.look()
        assert await watched.remembered() == ["old"]
        if end == "something":
            (watched.root / "new").touch()
            await watched.look()
            (watched.root / "new").unlink()
        else:
            for _ in range(HOURS):
                await watched.look()
        assert await watched.remembered() == []


async def test_what_a_watch_took_is_forgotten_long_after_it_left_the_configuration_and_not_before(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taken, "_AT_ONCE", 2)
    store, other = watched.store, Sweep(watched.root, "watch other", watched.store, work, watched.clock)

    async def days(count: int, *watching: Sweep) -> None:
        for _ in range(count):
            await store.tick(DAY)
            watched.clock.pass_time(DAY)
            for sweeping in watching:
                await sweeping.begin()

    async def forget() -> int:
        return int(await store._commit(lambda raw: taken.forget_unwatched(raw, 400 * DAY)))

    await watched.take("a", "b", "c")
    await other.begin()
    await store.remember(tree.Entry("x").origin("watch other"))
    # it is configured: what it took long ago is remembered, also while its folder is not there
    share = watched.root.rename(watched.root.with_name("share"))
    for _ in range(401):
        await days(1)
        for sweeping in (watched.sweep, other):
            with pytest.raises(OSError, match="No such file"):
                await sweeping.begin()
    share.rename(watched.root)
    assert await forget() == 0
    # it is renamed, and comes back
    await days(399, other)
    assert await forget() == 0
    watched.restart()
    await days(1, watched.sweep, other)
    await days(399, other)
    assert await forget() == 0
    assert len(await watched.remembered()) == 3
    # it never does
    await days(1, other)
    assert [await forget() for _ in range(3)] == [2, 1, 0]
    assert await watched.remembered() == []
    assert [row.path for row in await store.taken_after("watch other", "", 10)] == ["x"]
    assert await store.taken_after(taken.mark(PLACE), "", 10) == []


async def test_a_trail_that_is_kept_for_a_day_makes_no_watch_forget_so_soon(watched: Watched) -> None:
    await watched.take("a")
    await watched.store.tick(29 * DAY)
    assert await watched.store._commit(lambda raw: taken.forget_unwatched(raw, DAY)) == 0
    await watched.store.tick(1 * DAY)
    assert await watched.store._commit(lambda raw: taken.forget_unwatched(raw, DAY)) == 1


async def test_a_folder_that_does_not_answer_is_told_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SILENCE", 0.05)
    hangs = asyncio.Event()
    loop = asyncio.get_running_loop()

    def statvfs(_: Path) -> None:
        asyncio.run_coroutine_threadsafe(hangs.wait(), loop).result()

    monkeypatch.setattr(os, "statvfs", statvfs)
    clock = ManualClock()
    journal = Journal(clock)
    asked = Answers(tmp_path, "watch.us", journal, clock)
    running = asyncio.create_task(asked.run())

    async def told(*, is_told: bool) -> None:
        await asyncio.to_thread(wait_for, lambda: bool(journal.open()) is is_told, 5, "told, or not any more")

    await told(is_told=True)
    (finding,) = journal.open()
    assert finding.code == "WATCH_MISSING"
    assert finding.text.endswith(f"{tmp_path}: it does not answer")
    hangs.set()
    await told(is_told=False)
    with asked.expected():  # a pass hangs, in a folder of its own file system
        clock.pass_time(1)
        await told(is_told=True)
    await told(is_told=False)
    running.cancel()
    await asyncio.wait((running,))


class FullDisk:
    """Takes whatever is called small, and has no room for the rest."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()

    async def take(self, _root: Path, entry: tree.Entry, _origin: Origin, *, believe: bool = True) -> Result:
        del believe
        self.tried[entry.path] += 1
        return Result(Fate.TAKEN) if entry.path.startswith("small") else Result(Fate.TOO_LARGE, "no room")


async def test_what_is_too_large_is_tried_no_oftener_than_the_folder_is_looked_through(watched: Watched) -> None:
    taker, clock, journal = FullDisk(), watched.clock, Journal(watched.clock)
    config = Watch(path=watched.root, name="us", settle=0.0, after="delete", rescan=30.0, patience=20.0)
    folder = FolderWatch(
        config, cast("Taker", taker), watched.store, work, board=Board(clock), journal=journal, clock=clock
    )
    (watched.root / "0-large").touch()
    for number in range(60):
        (watched.root / f"small{number}").touch()
        clock.pass_time(1)
        assert await folder._look()
        assert await folder._look()
        assert not (watched.root / f"small{number}").exists()
    assert taker.tried.pop("0-large") == 2
    assert set(taker.tried.values()) == {1}
    (finding,) = journal.open()
    assert (finding.code, finding.text.endswith("1 file in us: 0-large: no room")) == ("WATCH_LEFT", True)


class Bomb:
    """Takes whatever there is, but for what is called a bomb: that goes on until it is told to end."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.tried: Counter[str] = Counter()
        self.fate = Fate.TAKEN

    async def take(self, _root: Path, entry: tree.Entry, _origin: Origin, *, believe: bool = True) -> Result:
        del believe
        self.tried[entry.path] += 1
        if "bomb" in entry.path:
            await self.over.wait()
            return Result(self.fate, "why")
        return Result(Fate.TAKEN)


@pytest.mark.parametrize("fate", [Fate.TAKEN, Fate.REFUSED])
async def test_a_file_that_takes_for_ever_holds_up_no_other(
    watched: Watched, fate: Fate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "LONG", 0.05)
    taker, clock = Bomb(), watched.clock
    taker.fate = fate
    config = Watch(path=watched.root, name="us", settle=0.0, after="delete", rescan=30.0, patience=20.0)
    folder = FolderWatch(
        config,
        cast("Taker", taker),
        watched.store,
        work,
        board=Board(clock),
        journal=Journal(clock),
        clock=clock,
    )
    for number in range(3):
        (watched.root / f"bomb{number}").touch()
    async with asyncio.timeout(10):
        for number in range(20):
            (watched.root / f"{number}").touch()
            clock.pass_time(1)
            assert await folder._look()
            assert await folder._look()
            assert not (watched.root / f"{number}").exists()
            assert folder._ripe_in == 2.0
            (watched.root / ".edge~moved").touch()  # as while one of them is moved
        assert {taker.tried[f"bomb{number}"] for number in range(3)} == {1}
        assert (watched.root / ".edge~moved").exists()
        taker.over.set()
        await asyncio.wait(folder._taking._tasks)
        assert await folder._look()
        assert not (watched.root / ".edge~moved").exists()
    assert folder._taking.paths() == set()
    assert (watched.root / "bomb1").exists() == (fate is Fate.REFUSED)
    if fate is Fate.REFUSED:
        clock.pass_time(370)  # it took 19 s
        await folder._look()
        assert taker.tried["bomb1"] == 1
        clock.pass_time(30)
        await folder._look()
        assert taker.tried["bomb1"] == 2


async def test_what_is_wrong_with_the_store_is_told_though_it_comes_late_and_an_end_waits_for_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(taking, "LONG", 0.0)
    fails, never = asyncio.Event(), asyncio.Event()

    async def take(entry: tree.Entry) -> None:
        await (fails if entry.path == "fails" else never).wait()
        raise StoreError("the disk fails")

    one = Taking(take)
    await one.batch([tree.Entry("fails"), tree.Entry("never")])
    assert one.paths() == {"fails", "never"}
    fails.set()
    await asyncio.wait(one._tasks, return_when=asyncio.FIRST_COMPLETED)
    with pytest.raises(StoreError):
        one.check()
    assert one.paths() == {"never"}
    await one.end()
    assert one.paths() == set()


async def test_what_took_long_once_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "LONG", 0.0)
    slow, taken_at_last = asyncio.Event(), []

    async def take(entry: tree.Entry) -> None:
        if entry.path == "slow":
            await slow.wait()
        taken_at_last.append(entry.path)

    one = Taking(take)
    await one.batch([tree.Entry("slow")])
    monkeypatch.setattr(taking, "LONG", 1000.0)
    for batch in ([], ["a", "b"]):
        await asyncio.wait_for(one.batch([tree.Entry(name) for name in batch]), 5)
    assert taken_at_last == ["a", "b"]
    slow.set()
    await asyncio.wait(one._tasks)
    await one.batch([])
    assert one.paths() == set()


async def test_more_than_a_few_that_take_long_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "LONG", 0.0)
    doors = {f"{number}": asyncio.Event() for number in range(taking.MOST_SLOW + 2)}

    async def take(entry: tree.Entry) -> None:
        await doors[entry.path].wait()

    one = Taking(take)
    batch = asyncio.create_task(one.batch([tree.Entry(name) for name in doors]))
    for name in "01":
        await asyncio.wait((batch,), timeout=0.02)
        assert not batch.done()
        doors[name].set()
    await asyncio.wait_for(batch, 5)
    assert one.paths() == doors.keys() - {"0", "1"}
    await one.end()
