"""Opening what lies on the disk: the lock, the spool, the numbers, the store.

A disk that can only be read, or is full to the last byte, is no reason to end: who starts the process again would find
the same disk. It is said once, to the log and to systemd, and tried again with growing pauses until the disk allows it
or somebody stops the appliance. What a person must put right is a `StartError`.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from edge.app.errors import StartError
from edge.clock import Clock
from edge.sdnotify import Notifier
from edge.spool import Ballast, Identity, Spool, StorageError
from edge.spool.ballast import LENGTH
from edge.spool.files import storage_trouble
from edge.store import Store, StoreError

_RIPE_WITHIN: Final = 10.0
"""Seconds within which what waited at the last end is tried again, so that not everything goes at once."""
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
"""Seconds between two attempts."""
_MAY_PASS: Final = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT})

log = structlog.get_logger()


class Opening:
    """Opens the storage path ``root``; ``most_events`` is how many events its log keeps."""

    def __init__(
        self,
        root: Path,
        spool: Spool,
        identity: Identity,
        ballast: Ballast,
        clock: Clock,
        notifier: Notifier,
        most_events: int,
        trouble: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``trouble`` hears why the disk does not allow it yet."""
        self._root = root
        self._spool = spool
        self._identity = identity
        self._ballast = ballast
        self._clock = clock
        self._notifier = notifier
        self._most_events = most_events
        self._trouble = trouble
        self._lock = -1
        self._said = ""

    async def wait(self, stop: asyncio.Event) -> Store | None:
        """Open everything, however long the disk takes to allow it; None where ``stop`` comes first.

        Raises `StartError`.
        """
        pause = _FIRST_PAUSE
        while not stop.is_set():
            try:
                return await self.open()
            except StartError as e:
                if not self._may_pass(e):
                    raise
                self._say(str(e))
            await _rest(stop, pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return None

    async def open(self) -> Store:
        """Open everything now; on a full disk once more, with what the ballast gives back. Raises `StartError`."""
        if self._lock < 0:
            self._lock = _lock(self._root)
        try:
            return await self._open()
        except StartError:
            if not (self._full() and self._ballast.drop()):
                raise
        return await self._open()

    def close(self) -> None:
        """Let go of the storage path."""
        self._spool.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def _open(self) -> Store:
        store: Store | None = None
        try:
            self._spool.open()
            self._identity.open(self._spool.highest)
            store = await Store.open(
                self._root,
                self._clock,
                self._identity.session,
                self._spool.path,
                self._ballast.drop,
                ripe_in=_RIPE_WITHIN * random.random(),  # noqa: S311 - jitter
                new_epoch=lambda: self._identity.next_number("epoch"),
                most_events=self._most_events,
            )
            self._identity.rise_above(await store.highest_id())
            self._identity.at_least("epoch", store.epoch)
        except (StorageError, StoreError, OSError) as e:
            self._spool.close()
            if store is not None:
                await store.close()
            text = storage_trouble(self._root, e) if isinstance(e, OSError) else str(e)
            raise StartError(text) from e
        return store

    def _may_pass(self, error: BaseException) -> bool:
        """Whether it is the state of the disk that keeps us, and not what somebody configured."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in _MAY_PASS:
                return True
            if isinstance(cause, StoreError) and (self._full() or self._read_only()):
                return True
            cause = cause.__cause__
        return False

    def _full(self) -> bool:
        """Whether the disk has too little room for what a start writes."""
        try:
            at = os.statvfs(self._root)
        except OSError:
            return False
        return at.f_bavail * at.f_frsize < LENGTH or (at.f_files > 0 and not at.f_favail)

    def _read_only(self) -> bool:
        try:
            return bool(os.statvfs(self._root).f_flag & os.ST_RDONLY)
        except OSError:
            return False

    def _say(self, why: str) -> None:
        """Say it once. For systemd the start is over: it would end one that takes long."""
        if why != self._said:
            self._said = why
            self._trouble(why)
            log.error("images are not accepted yet: the disk does not allow it, and is tried again", why=why)
            self._notifier.tell(f"READY=1\nSTATUS=not receiving, trying again: {why}")


async def _rest(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


def _lock(storage: Path) -> int:
    """Take the storage path for this process. Raises `StartError`."""
    try:
        storage.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(storage / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise StartError(storage_trouble(storage, e)) from e
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        os.close(lock)
        raise StartError(
            f"Another appliance is running on {storage}: stop it, or set storage.path to another folder."
        ) from e
    return lock
