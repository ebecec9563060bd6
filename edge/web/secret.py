"""The password of the dashboard, as an Argon2id hash in ``identity/password``, and the code with which it is first set.

There is no default password. A box without one makes a code, which is printed on its label or shown to whoever may read
``identity/``; with it the password is set once, and then the code is dead. Files are replaced as a whole and synced.
"""

import functools
import hashlib
import hmac
import os
import secrets
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge.fsync import replace_synced, sync_path
from edge.phrase import N_, say

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SHORTEST: Final = 10
LONGEST: Final = 256
"""Characters of a password."""
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Without what is taken for something else on a small label (Crockford)."""
_GROUPS: Final = 3
_GROUP: Final = 4
_MEMORY: Final = 32 * 1024
"""KiB of one computation."""
_PASSES: Final = 3


class PasswordError(Exception):
    """A password cannot be taken; the text says why."""


class Secrets:
    """The files in ``identity``. Every call reads or writes them in the calling thread, and may raise OSError."""

    def __init__(self, identity: Path) -> None:
        self._folder = identity
        self._password = identity / "password"
        self._code = identity / "first-code"

    def is_set(self) -> bool:
        """Whether there is a password."""
        return bool(_read(self._password))

    def stamp(self) -> str:
        """Return what changes with the password; empty where there is none."""
        stored = _read(self._password)
        return hashlib.sha256(stored.encode()).hexdigest() if stored else ""

    def set(self, password: str) -> None:
        """Store another password; the code is dead. Raises `PasswordError`."""
        check(password)
        self._write(self._password, _hasher().hash(_normal(password)))
        self.drop_code()

    def verify(self, password: str) -> bool:
        """Whether it is the password. One that is wrong takes as long as one that is right."""
        from argon2.exceptions import InvalidHashError, VerificationError  # noqa: PLC0415 - only for who logs in

        stored = _read(self._password)
        if not stored or len(password) > LONGEST:
            password = ""
        try:
            return bool(_hasher().verify(stored or _nobodys(), _normal(password))) and bool(stored and password)
        except (VerificationError, InvalidHashError):
            return False

    def code(self) -> str:
        """Return the first-start code, made at first use; empty where a password is set."""
        if self.is_set():
            self.drop_code()
            return ""
        found = _read(self._code)
        if not found:
            groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in range(_GROUPS))
            found = "-".join(groups)
            self._write(self._code, found)
        return found

    def waiting_code(self) -> str:
        """Return the first-start code where one waits to be used; makes none."""
        return "" if self.is_set() else _read(self._code)

    def is_code(self, text: str) -> bool:
        """Whether ``text`` is the code, however it was typed."""
        code = self.code()
        return bool(code) and hmac.compare_digest(_typed(code).encode(), _typed(text).encode())

    def drop_code(self) -> None:
        """Make the code dead."""
        if self._code.exists():
            self._code.unlink(missing_ok=True)
            sync_path(self._folder)

    def _write(self, path: Path, text: str) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_synced(path, f"{text}\n".encode("ascii"), 0o600)
        if os.geteuid() == 0:
            # root wrote it for a service that runs as somebody else, who owns the storage path
            owner = self._folder.parent.stat()
            for one in (self._folder, path):
                os.chown(one, owner.st_uid, owner.st_gid)


def check(password: str) -> None:
    """Raise `PasswordError` where ``password`` is no good one."""
    if len(password) < SHORTEST:
        raise PasswordError(
            say("The password needs at least {least} characters: a short sentence is a good one.", least=SHORTEST)
        )
    if len(password) > LONGEST:
        raise PasswordError(say("The password may have at most {most} characters.", most=LONGEST))
    if any(unicodedata.category(character) == "Cc" for character in password):
        raise PasswordError(N_("The password may not contain control characters."))
    if len(set(password)) < SHORTEST // 2:
        raise PasswordError(N_("The password repeats too few characters: a short sentence is a good one."))


def _typed(code: str) -> str:
    plain = "".join(character for character in code.upper() if character.isalnum())
    return plain.translate(str.maketrans("OIL", "011"))


def _normal(password: str) -> str:
    """One form, whatever keyboard wrote it."""
    return unicodedata.normalize("NFKC", password)


def _hasher() -> "PasswordHasher":
    from argon2 import PasswordHasher  # noqa: PLC0415 - only for who logs in

    return PasswordHasher(time_cost=_PASSES, memory_cost=_MEMORY, parallelism=1)


@functools.cache
def _nobodys() -> str:
    """The hash of a password that nobody knows."""
    return _hasher().hash(secrets.token_urlsafe())


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
