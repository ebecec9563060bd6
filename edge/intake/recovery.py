"""What the last run left: parts that were answered, files without a row, rows without a file.

Runs beside an open intake, at start and after the database was made anew; of parts it touches only those of earlier
sessions. A part with a good seal and the right digest is indexed; one with a bad seal was never answered and goes. A
good seal over other bytes may have been answered, so it is set aside and said, never dropped.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Final

import msgspec
import structlog

from edge.dicom import part10
from edge.findings import Journal
from edge.fsync import sync_path
from edge.intake.index import Index
from edge.intake.seal import BadSealError, UnknownSealError, routable
from edge.intake.soundness import DamagedError, describe, examine
from edge.model import Header, Instance, Source
from edge.phrase import N_, say
from edge.routing import Leg, Routing
from edge.spool import Spool, Syncer
from edge.store import Store, StoreError, StoreFailedError

_CHUNK: Final = 1 << 20
_BATCH: Final = 500
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
"""Seconds after which what did not succeed is tried again."""
_EXPIRED, _LOST, _QUARANTINED = "expired", "lost", "quarantined"

log = structlog.get_logger()


class Recovery:
    """One pass over the spool at start."""

    def __init__(
        self,
        spool: Spool,
        syncer: Syncer,
        store: Store,
        index: Index,
        routing: Routing,
        journal: Journal,
        first_id: int,
        *,
        everything: bool = False,
    ) -> None:
        self._spool = spool
        self._syncer = syncer
        self._store = store
        self._index = index
        self._routing = routing
        self._journal = journal
        self._first_id = first_id
        self.parts_done = asyncio.Event()
        """Set when every part of earlier sessions has its place: what is sent before may look for its file in vain."""
        self._everything = everything
        """Whether the files of this session are looked at as well, once the database was made anew."""

    async def run(self) -> None:
        """Recover everything, then return. What hinders it is tried again until it does not.

        Where the database must be opened anew, another recovery follows, and this one ends.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._run()
            except StoreFailedError as e:
                log.warning("recovery stops until the store is back", error=str(e))
                return
            except (StoreError, OSError) as e:
                log.warning("recovery is not done", error=str(e))
                self._journal.note("STORAGE_ERROR", "recovery", str(e))
            else:
                return
            finally:
                self.parts_done.set()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _run(self) -> None:
        parts = [i for i in await self._syncer.run(self._spool.waiting) if i < self._first_id]
        states = await self._store.states(parts)
        for number in parts:
            await self._try(self._discard if states.get(number) == _EXPIRED else self._part, number)
        self.parts_done.set()
        files = self._spool.published()
        # turns go by arrival, so that where every row is made again, that is the order
        ids = _in_order(files) if self._everything else (i for i in files if i < self._first_id)
        while batch := await self._syncer.run(lambda: list(islice(ids, _BATCH))):
            await self._published(batch)
        await self._missing()
        await self._unrouted()

    async def _published(self, ids: list[int]) -> None:
        """Bring rows and files into line: index files without a row, delete those that a tombstone stands for."""
        states = await self._store.states(ids)
        for number in ids:
            if states.get(number) == _EXPIRED:
                await self._try(self._delete, number)
        if lost := [i for i in ids if states.get(i) == _LOST]:
            await self._store.find(lost)
        for number in ids:
            if number not in states:
                await self._try(self._orphan, number)
            elif states[number] == _QUARANTINED:
                await self._try(self._damaged, number)

    async def _try(self, recover: Callable[[int], Awaitable[None]], number: int) -> None:
        """Recover one object; a file that cannot be read must not keep the others waiting."""
        try:
            await recover(number)
        except OSError as e:
            self._journal.note(
                "STORAGE_ERROR", "recovery", say("object {number}: {error}", number=number, error=e.strerror or e)
            )

    async def _discard(self, number: int) -> None:
        await self._syncer.run(lambda: self._spool.discard(number))

    async def _delete(self, number: int) -> None:
        await self._syncer.run(lambda: self._spool.delete([number]))

    async def _part(self, number: int) -> None:
        path = self._spool.part_path(number)
        try:
            instance, legs = await self._syncer.run(lambda: examine(path))
        except (DamagedError, UnknownSealError) as e:
            await self._quarantine(number, str(e))
            return
        except (BadSealError, part10.NotPart10Error):
            await self._discard(number)
            return
        for name in (path, path.parent):
            await self._syncer.run(partial(sync_path, name))
        await self._take(instance, legs)

    async def _orphan(self, number: int) -> None:
        path = self._spool.path(number)
        try:
            instance, legs = await self._syncer.run(lambda: examine(path))
        except FileNotFoundError:
            return  # deleted meanwhile, so it had a row
        except (BadSealError, part10.NotPart10Error) as e:
            self._journal.note("ODD_OBJECT", "recovery", say("{file} has no row and {error}", file=path.name, error=e))
            return
        except DamagedError as e:
            await self._quarantine(number, str(e))
            return
        await self._take(instance, legs)

    async def _damaged(self, number: int) -> None:
        """Move a file that was found damaged, as its row says, and was not moved yet."""
        await self._quarantine(number, N_("its row says that it is damaged"))

    async def _take(self, instance: Instance, legs: tuple[Leg, ...]) -> None:
        """Index a recovered object; one that came while no destination was configured is routed now."""
        header = routable(instance.header, instance.kind.sop_class_uid)
        self._index.take(instance, legs or self._routing.legs(header, instance.source))
        await self._index.caught_up()

    async def _quarantine(self, number: int, reason: str) -> None:
        await self._spool.put_aside(number, msgspec.json.encode({"why": reason}))
        self._journal.note("QUARANTINED", "recovery", reason)

    async def _missing(self) -> None:
        last = 0
        while batch := await self._store.stored_after(last, _BATCH):
            last = batch[-1]
            lost = await self._syncer.run(partial(self._without_file, batch))
            if lost:
                await self._store.lose(lost)
            for number in lost:
                self._journal.note("LOST", "storage", say("object {number}", number=number))

    async def _unrouted(self) -> None:
        """Give destinations to what came while no route took it."""
        last = 0
        while batch := await self._store.unrouted(last, _BATCH):
            last = batch[-1][0]
            seen = [(i, await self._seen(i, header, source)) for i, header, source in batch]
            await self._store.route([(i, self._routing.legs(*what)) for i, what in seen if what is not None])

    async def _seen(self, number: int, header: Header, source: Source) -> tuple[Header, Source] | None:
        """Give what a route looks at: from the row where that is enough, else from the file; None if it is no help."""
        if not self._routing.reads_files:
            return header, source
        try:
            return await self._syncer.run(partial(describe, self._spool.path(number)))
        except OSError as e:
            self._journal.note(
                "STORAGE_ERROR", "recovery", say("object {number}: {error}", number=number, error=e.strerror or e)
            )
        except (BadSealError, part10.NotPart10Error) as e:
            log.warning("an object stays without a route", object=number, why=str(e))
        return None

    def _without_file(self, ids: Iterable[int]) -> list[int]:
        # the part first: the index may be renaming it at this moment
        return [
            i
            for i in ids
            if i < self._first_id and not self._spool.part_path(i).exists() and not self._spool.path(i).exists()
        ]


def _in_order(files: Iterable[int]) -> Iterator[int]:
    """Give ids in order of arrival; an OSError that ``files`` end with comes last here too."""
    found: list[int] = []
    trouble: OSError | None = None
    try:
        for number in files:
            found.append(number)  # noqa: PERF402 - what came before an error must be kept
    except OSError as e:
        trouble = e
    yield from sorted(found)
    if trouble is not None:
        raise trouble
