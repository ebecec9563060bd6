"""Whether what lies on the card can be taken: everything is read once and judged before anything is changed.

The configuration is judged as `edge check` does it, with the files that it names where they lie now: those beside
``provision.toml`` on the card, the others on the box. Every fault is told at once.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from edge.clock import SystemClock
from edge.config import Config
from edge.configfile import ConfigError, Problem, load
from edge.dicomweb.errors import LoginError
from edge.dicomweb.secret import SecretFile
from edge.provision import standing
from edge.provision.card import MOST, SOURCE, lying
from edge.provision.faults import Fault, FaultsError
from edge.provision.network import judge_network
from edge.provision.places import SETTINGS, Places
from edge.provision.profile import Profile, Storage
from edge.provision.reading import Marks, read_profile
from edge.tls import date, every

_CONFIGURATION: Final = "edge.toml"
_SECRETS: Final = frozenset({"password_file", "token_file", "client_secret_file", "service_account_file"})


class Given(msgspec.Struct, frozen=True):
    """A file that lies beside ``provision.toml``, as it was read."""

    name: str
    """What it is to be called."""
    lies: str
    """What it is called on the card."""
    data: bytes
    private: bool


class Judged(msgspec.Struct, frozen=True):
    """What was found good."""

    source: Given
    profile: Profile
    configuration: Given | None
    config: Config | None
    """What ``configuration`` says."""
    files: tuple[Given, ...]
    notes: tuple[str, ...]
    """What is no fault, and yet worth a thought."""


def judge(folder: Path, source: Path, places: Places | None) -> Judged:
    """Judge what lies in ``folder``. Raises `FaultsError`.

    ``places`` is the box; None at a desk, where nothing is known of what is on it.
    """
    faults: list[Fault] = []
    notes: list[str] = []
    itself = _source(source)
    profile, marks, problems = read_profile(source)
    faults += [Fault(source.name, problem) for problem in problems]

    def wrong(key: str, text: str) -> None:
        faults.append(Fault(source.name, Problem(marks.line(key), key, text)))

    if profile.network is not None:
        judge_network(profile.network, wrong, notes)
    if profile.dashboard.password is not None and profile.dashboard.password_hash is not None:
        wrong("dashboard.password_hash", "give the password or its hash, not both")
    _judge_storage(profile.storage, places, wrong)
    files = _files(folder, profile, wrong)
    named = profile.edge.configuration
    path = lying(folder, named or _CONFIGURATION)
    configuration, config = None, None
    if path is not None:
        configuration = _given(path, named or _CONFIGURATION, private=False, wrong=wrong, key="edge.configuration")
    if path is not None and configuration is not None:
        config = _Judge(path, {one.name: folder / one.lies for one in files}, places, faults, notes).config()
        if config is not None and places is not None and not _writable(places.at(config.storage.path)):
            text = "it cannot be written on this box; leave storage.path out"
            faults.append(Fault(path.name, Problem(None, "storage.path", text)))
    elif named:
        wrong("edge.configuration", f'"{named}" does not lie beside {source.name}')
    if faults:
        raise FaultsError(tuple(faults))
    return Judged(itself, profile, configuration, config, files, tuple(notes))


def _judge_storage(wanted: Storage, places: Places | None, wrong: Callable[[str, str], None]) -> None:
    if (wanted.encryption is None) != (wanted.recovery_key is None):
        wrong("storage", "give encryption and recovery_key, or neither")
        return
    if wanted.encryption is None or places is None:
        return
    # it was done before the partition was mounted, or not at all
    found, _, more = standing.line(places.at_rest).partition(" ")
    if not found:
        wrong("storage", "only a card of the image is encrypted so; here it is for the system to do")
    elif found == "none":
        wrong(
            "storage.encryption", "this card is in use already, and not encrypted; flash it anew, with this file on it"
        )
    elif found != wanted.encryption:
        wrong("storage.encryption", f'this box is encrypted with "{found}"; flash the card anew for another')
    elif more:
        wrong("storage.recovery_key", "it is not the one that this box was encrypted with, which stays as it is")


def _writable(path: Path) -> bool:
    """Whether the folder, or the nearest above it that is there, can be written."""
    there = next((one for one in (path, *path.parents) if one.exists()), path)
    return os.access(there, os.W_OK)


def _source(path: Path) -> Given:
    """Read the file itself. Raises `FaultsError` where it cannot be read, or is too long to be looked at."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except OSError as e:
        text = f"it cannot be read ({e.strerror or e})"
    else:
        if len(data) <= MOST:
            return Given(SOURCE, path.name, data, private=True)
        text = "it is longer than 1 MiB"
    raise FaultsError((Fault(path.name, Problem(None, "", text)),))


def _files(folder: Path, profile: Profile, wrong: Callable[[str, str], None]) -> tuple[Given, ...]:
    found: list[Given] = []
    seen: set[str] = set()
    for kind, names in (("public", profile.files.public), ("private", profile.files.private)):
        for number, name in enumerate(names, 1):
            key = f"files.{kind}[{number}]"
            if name.lower() in seen:
                wrong(key, f'"{name}" is given twice; the card does not tell capital letters from small ones')
            seen.add(name.lower())
            path = lying(folder, name)
            if path is None:
                wrong(key, f'"{name}" does not lie beside provision.toml')
            elif (given := _given(path, name, private=kind == "private", wrong=wrong, key=key)) is not None:
                found.append(given)
    return tuple(found)


def _given(path: Path, name: str, *, private: bool, wrong: Callable[[str, str], None], key: str) -> Given | None:
    try:
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except OSError as e:
        wrong(key, f'"{name}" cannot be read ({e.strerror or e})')
        return None
    if len(data) > MOST or not data:
        wrong(key, f'"{name}" is empty' if not data else f'"{name}" is longer than 1 MiB')
        return None
    return Given(name, path.name, data, private)


class _Judge:
    """Judges one configuration, and the files that it names where they lie now."""

    def __init__(
        self, path: Path, given: Mapping[str, Path], places: Places | None, faults: list[Fault], notes: list[str]
    ) -> None:
        self._path = path
        self._given = given
        self._places = places
        self._faults = faults
        self._notes = notes
        self._marks = Marks.of(path)

    def config(self) -> Config | None:
        """Return the configuration; what is wrong with it is among the faults."""
        try:
            config = load(self._path).config
        except ConfigError as e:
            for problem in e.problems:
                whole = problem.line is None and problem.key == str(self._path)
                self._faults.append(Fault(self._path.name, Problem(None, "", problem.text) if whole else problem))
            return None
        # what is not there is told once, whoever would have used it
        absent = set(self._absent(config))
        here: Config = _moved(config, self._here)
        self._secrets(here, absent)
        self._certificates(here, absent)
        return config

    def _wrong(self, key: str, text: str) -> None:
        self._faults.append(Fault(self._path.name, Problem(self._marks.line(key), key, text)))

    def _here(self, path: Path) -> Path:
        if path.parent == SETTINGS and path.name in self._given:
            return self._given[path.name]
        return self._places.at(path) if self._places else path

    def _absent(self, config: Config) -> Iterator[str]:
        """Give the keys of files that are not to be found here."""
        for key, path in _named(config, ""):
            if path.parent == SETTINGS and path.name in self._given:
                continue
            if self._places is None:
                self._notes.append(
                    f"{self._path.name}: {key}: {path} must be on the box; it does not go there from here"
                )
                yield key
            elif not self._here(path).exists():
                text = f"there is no {path} on the box"
                if path.parent == SETTINGS:
                    text += f"; lay {path.name} beside provision.toml and name it in [files]"
                self._wrong(key, text)
                yield key

    def _secrets(self, config: Config, absent: set[str]) -> None:
        for key, path in _named(config, ""):
            if key.rpartition(".")[2] in _SECRETS and key not in absent:
                try:
                    SecretFile(path).read()
                except LoginError as e:
                    self._wrong(key, str(e))

    def _certificates(self, config: Config, absent: set[str]) -> None:
        clock = SystemClock()
        for one in every(config):
            key, _, text = one.trouble.partition(": ")
            if text and key not in absent:
                self._wrong(key, text)
            if not text and one.validity is not None and clock.trusted():
                valid = one.validity
                if not valid.begins <= clock.now() <= valid.ends:
                    days = f"{date(valid.begins)} to {date(valid.ends)}"
                    text = f"{valid.name} is valid only from {days}: have a new one made"
                    self._wrong(f"{one.where}.certificate_file", text)


def _named(value: object, key: str) -> Iterator[tuple[str, Path]]:
    """Give every file that a configuration names, with its key."""
    if isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            inner = getattr(value, field)
            if isinstance(inner, Path):
                if field.endswith("_file"):
                    yield f"{key}.{field}", inner
            else:
                yield from _named(inner, f"{key}.{field}" if key else field)
    elif isinstance(value, tuple):
        for item in value:
            yield from _named(item, f"{key}.{getattr(item, 'name', '')}")


def _moved(value: Any, where: Callable[[Path], Path]) -> Any:
    """Return the same with every file at another place."""
    if isinstance(value, msgspec.Struct):
        moved = {
            field: where(inner) if field.endswith("_file") and isinstance(inner, Path) else _moved(inner, where)
            for field, inner in ((field, getattr(value, field)) for field in value.__struct_fields__)
        }
        return type(value)(**moved)
    return tuple(_moved(item, where) for item in value) if isinstance(value, tuple) else value
