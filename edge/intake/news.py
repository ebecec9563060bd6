"""News of changes in a watched folder, where its file system tells any: they only make a watch look sooner.

What lies in the folder of files that were taken is never news, and is not watched: it is never emptied, and each
folder in it would cost the kernel a watch.
"""

import asyncio
import contextlib
import os
import threading
from pathlib import Path
from typing import Final

import structlog
from watchdog.events import FileOpenedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import DEFAULT_OBSERVER_TIMEOUT, BaseObserver
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_c import CallbackId, InotifyFD, Mask, WatchCallback, WatchDescriptor

_QUIET: Final = "closed_no_write"

log = structlog.get_logger()


class News:
    """News of one folder."""

    def __init__(self, path: Path, skip: str, hint: asyncio.Event) -> None:
        """``hint`` is set at each change, save below the folder ``skip``."""
        self._path = path
        self._skip = path / skip
        self._told = _Told(asyncio.get_running_loop(), hint)
        self._observer: BaseObserver | None = None
        self._over = False

    def begin(self) -> bool:
        """Hear of changes from now on; whether it was not so before. Where the system cannot tell, nothing is heard."""
        if self._observer is not None:
            return False
        observer = None
        try:
            observer = _Observer(self._skip)
            observer.schedule(self._told, str(self._path), recursive=True)
            observer.start()
        except OSError as e:  # too many watches
            log.warning("no news of changes in a watched folder", error=e.strerror or str(e))
            if observer is not None:
                _end(observer)
            return False
        self._observer = observer
        if self._over:  # it took long, and nobody waited
            self.end()
        return True

    def end(self, *, over: bool = False) -> None:
        """Hear nothing any more: for a while, or for good."""
        self._over = self._over or over
        if self._observer is not None:
            _end(self._observer)
            self._observer = None


class _Told(FileSystemEventHandler):
    """Hears of changes in a thread of watchdog's, and wakes the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hint: asyncio.Event) -> None:
        self._loop = loop
        self._hint = hint

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Wake the loop, unless it is awake; our own reading is no news."""
        if isinstance(event, FileOpenedEvent) or event.event_type == _QUIET or self._hint.is_set():
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._hint.set)


class _Watches(InotifyFD):
    """Watches of folders, but of none in one of them."""

    def __init__(self, skip: Path) -> None:
        super().__init__()
        self._skip = os.fsencode(skip)

    def add_callback(self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId) -> WatchDescriptor:
        if path == self._skip or path.startswith(self._skip + b"/"):
            raise PermissionError  # as where a folder may not be read: it is left out
        return super().add_callback(path, mask, callback, id_)


class _Observer(BaseObserver):
    """watchdog's observer of inotify, with watches of ours."""

    def __init__(self, skip: Path) -> None:
        self._inotify = _Watches(skip)
        self._inotify.start()
        super().__init__(InotifyEmitter, timeout=DEFAULT_OBSERVER_TIMEOUT, inotify_fd=self._inotify)

    def on_thread_stop(self) -> None:
        """End the watches too."""
        super().on_thread_stop()
        self._inotify.stop()


def _end(observer: BaseObserver) -> None:
    # it waits for its threads, and these may wait for a share that hangs
    threading.Thread(target=observer.stop, daemon=True).start()
