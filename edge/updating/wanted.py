"""Asking root's side for something: a small file, written whole and synced by whoever may write the storage path.

It names a version, or says that a bundle lies beside it under a fixed name. A request that is written is not lost: it
outlasts a power cut, and is carried out once. Two at once: the first one counts.
"""

import errno
import os
import re
import secrets
import shutil
import stat
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Literal
from urllib.parse import urlsplit

import msgspec

from edge.fsync import sync_path
from edge.updating.state import State, read_state
from edge.updating.versions import END, PATTERN, is_older, is_version

FOLDER: Final = "update"
"""Below the storage path."""
BUNDLE: Final = "bundle.raucb"
_NAME: Final = re.compile(r"dicom-edge-(.{1,40})-[a-z0-9]{1,16}\.raucb")
"""Of a bundle's file: it says the version, but proves nothing."""
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_LONGEST_URL: Final = 2048
_CHUNK: Final = 1 << 20

Version = Annotated[str, msgspec.Meta(pattern=PATTERN)]
Kind = Literal["update", "reboot", "cancel"]
NAMES: Final[dict[Kind, str]] = {"update": "wanted.json", "reboot": "reboot.json", "cancel": "cancel.json"}
"""The file of each kind, so that none is in another's way."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked for. Of an update ``url`` and ``version``, or neither: then a bundle lies beside it."""

    v: Literal[1] = 1
    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}" + END)]
    kind: Kind
    version: Annotated[str, msgspec.Meta(pattern=f"^{END}|{PATTERN}")] = ""
    url: Annotated[str, msgspec.Meta(max_length=_LONGEST_URL)] = ""
    force: bool = False
    """Whether a version is taken that was rolled back before, that runs, or that is older."""


class RefusedError(Exception):
    """Nothing was asked for; ``code`` is one of `edge.updating.reasons.REFUSALS`."""

    def __init__(self, code: str, text: str = "") -> None:
        """``text``: what the system said, in English."""
        super().__init__(code)
        self.code = code
        self.text = text


def acceptable(url: str) -> bool:
    """Whether root's side may fetch from ``url``: https, or this machine; a password has no place in it."""
    try:
        parts = urlsplit(url)
        local = parts.scheme == "http" and parts.hostname in _LOOPBACK
        return (
            (parts.scheme == "https" or local)
            and bool(parts.hostname)
            and parts.port != 0
            and parts.username is None
            and url.isascii()
            and url.isprintable()
            and " " not in url
        )
    except ValueError:
        return False


def bundle_url(base: str, version: str) -> str:
    """Where the bundle of ``version`` lies on a server."""
    return f"{base.rstrip('/')}/dicom-edge-{version}-arm64.raucb"


class Asking:
    """Asks on one storage path, for the appliance or a person."""

    def __init__(self, storage: Path, url: str | None, record: Path, *, slot: str, running: str) -> None:
        """``record``: what root's side writes. ``slot``: empty where this is no image. ``running``: this version."""
        self._folder = storage / FOLDER
        self._url = url
        self._record = record
        self._slot = slot
        self._running = running

    @property
    def state(self) -> State:
        """How the last update is."""
        return read_state(self._record)

    @property
    def pending(self) -> bool:
        """Whether an update was asked for that root's side did not take yet."""
        return (self._folder / NAMES["update"]).exists()

    def refusal(self, version: str, *, force: bool = False) -> str:
        """Why ``version`` is not to be asked for, as a code; empty where it may."""
        state = self.state
        if not self._slot:
            return "UNSUPPORTED"
        if self._url is None:
            return "NO_UPDATE_URL"
        if state.busy or self.pending:
            return "UPDATE_UNDER_WAY"
        return "" if force else self._known(version, state)

    def _known(self, version: str, state: State) -> str:
        if version in state.rolled_back:
            return "ROLLED_BACK_BEFORE"
        return "SAME_VERSION" if version == self._running else ""

    def version(self, version: str, *, force: bool = False) -> None:
        """Ask for ``version`` from the server of the configuration. Raises `RefusedError`."""
        if not is_version(version):
            raise RefusedError("BAD_VERSION")
        code = self.refusal(version, force=force)
        if code or self._url is None:
            raise RefusedError(code)
        url = bundle_url(self._url, version)
        self._write(Wanted(id=_number(), kind="update", version=version, url=url, force=force))

    def file(self, bundle: Path, *, keep: int, force: bool = False) -> None:
        """Ask for what is in ``bundle``. It is copied, where ``keep`` bytes stay free. Raises `RefusedError`.

        A version in its name that would not be taken is refused before.
        """
        if not self._slot:
            raise RefusedError("UNSUPPORTED")
        state = self.state
        if state.busy or self.pending:
            raise RefusedError("UPDATE_UNDER_WAY")
        code = "" if force else self._hinted(bundle.name, state)
        if code:
            raise RefusedError(code)
        number = _number()
        self._make_folder()
        temporary = self._folder / f"{number}.part"
        try:
            self._copy(bundle, temporary, keep)
            temporary.replace(self._folder / BUNDLE)
            sync_path(self._folder)
        except OSError as e:
            raise RefusedError("STORAGE", e.strerror or str(e)) from e
        finally:
            temporary.unlink(missing_ok=True)
        self._write(Wanted(id=number, kind="update", force=force))

    def reboot(self) -> None:
        """Ask for a restart of the machine. Raises `RefusedError`."""
        self._write(Wanted(id=_number(), kind="reboot"))

    def cancel(self) -> None:
        """Ask to call off an update that is being downloaded. Raises `RefusedError`."""
        self._write(Wanted(id=_number(), kind="cancel"))

    def _hinted(self, name: str, state: State) -> str:
        """Why a file of this name is not to be taken, as a code; empty where it may, or its name does not say."""
        found = _NAME.fullmatch(name)
        if found is None or not is_version(found[1]):
            return ""
        try:
            return self._known(found[1], state) or ("OLDER_VERSION" if is_older(found[1], self._running) else "")
        except ValueError:
            return ""

    def _copy(self, bundle: Path, to: Path, keep: int) -> None:
        with _opened(bundle) as source, to.open("xb") as target:
            size = os.fstat(source.fileno()).st_size
            # root's side makes a copy of its own, where nobody can change it any more
            if 2 * size + keep > shutil.disk_usage(self._folder).free:
                raise RefusedError("NO_ROOM")
            while piece := _read(source.fileno()):
                target.write(piece)
            target.flush()
            os.fsync(target.fileno())

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as e:
            raise RefusedError("STORAGE", e.strerror or str(e)) from e

    def _write(self, wanted: Wanted) -> None:
        """Write a request, unless there is one of its kind."""
        if not self._slot:
            raise RefusedError("UNSUPPORTED")
        self._make_folder()
        temporary = self._folder / f"{wanted.id}.new"
        try:
            with temporary.open("xb") as file:
                file.write(msgspec.json.encode(wanted))
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, self._folder / NAMES[wanted.kind])
        except FileExistsError:
            if wanted.kind == "update":
                raise RefusedError("UPDATE_UNDER_WAY") from None
        except OSError as e:
            raise RefusedError("STORAGE", e.strerror or str(e)) from e
        finally:
            temporary.unlink(missing_ok=True)
        try:
            sync_path(self._folder)
        except OSError as e:
            raise RefusedError("STORAGE", e.strerror or str(e)) from e


def _opened(bundle: Path) -> BinaryIO:
    """Open a plain file, not what a link leads to: whoever asks may read more than who wrote the medium may.

    Raises `RefusedError`.
    """
    try:
        fd = os.open(bundle, _FLAGS)
    except OSError as e:
        why = "it is a link" if e.errno == errno.ELOOP else e.strerror or str(e)
        raise RefusedError("BAD_FILE", why) from e
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RefusedError("BAD_FILE", "it is no plain file")
    return os.fdopen(fd, "rb")


def _read(fd: int) -> bytes:
    """Read a piece of a medium. Raises `RefusedError`."""
    try:
        return os.read(fd, _CHUNK)
    except OSError as e:
        raise RefusedError("BAD_FILE", e.strerror or str(e)) from e


def _number() -> str:
    return secrets.token_hex(16)
