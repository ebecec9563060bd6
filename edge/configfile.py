"""From a TOML file to a `Config`, or to every problem that it has, at once, each with its line.

The structs of `edge.config` are walked by their types: this module knows no key by name, save the table of
what this version does not act on yet, and the checks that need more than one key. Values are never repeated
where a secret may stand. A file is taken whole or not at all.
"""

import contextlib
import difflib
import functools
import os
import re
import threading
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from edge import tomllines
from edge.config import Config, Lights, Rule, Storage
from edge.findings import printable
from edge.patterns import Pattern, any_matches


class Later(msgspec.Struct, frozen=True):
    """A key that the contract has and this version does not act on, which is a notice.

    A line goes when the work is done.
    """

    key: str
    save: str | None = None
    """The one value that is not meant."""


LATER: Final[tuple[Later, ...]] = ()


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong. ``key`` is dotted, elements of a list by their name or their number from 1."""

    line: int | None
    key: str
    text: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        return f"{where}{self.key}: {self.text}" if self.key else f"{where}{self.text}"


class ConfigError(Exception):
    """The configuration cannot be used. Its text has one line for each problem."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
        """In the order of their lines, at least one."""


class Loaded(msgspec.Struct, frozen=True):
    """A configuration that was taken."""

    config: Config
    notices: tuple[str, ...]
    """What it says that this version does not act on, such as ``[mqtt]`` or ``destination.pacs.verify``."""


def load(path: Path) -> Loaded:
    """Read the file at ``path``; ConfigError if it cannot be read or used."""
    return parse(text_of(path))


def load_lights(path: Path) -> Lights:
    """Read ``[lights]`` alone, whatever else is wrong with the file; ConfigError if that cannot be read or used."""
    document, lines = document_of(text_of(path))
    reader = Reader(document, lines)
    lights: Lights = reader.value(Lights, document.get("lights", {}), ("lights",))
    _lights(reader, document)
    _refuse(reader)
    return lights


def text_of(path: Path) -> str:
    """Return the text of a file. Raises `ConfigError`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise _file_error(path, "there is no such file; create it, or name another with --config") from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise _file_error(path, f"it cannot be read ({why}); it must be a file this user may read") from error
    except ValueError as error:
        raise _file_error(path, f"this is no path of a file ({error})") from error
    try:
        # Windows editors begin a file with a byte order mark
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _file_error(path, "it is not UTF-8 text; save it again as UTF-8", line) from None


def parse(text: str) -> Loaded:
    """Read TOML; ConfigError with everything that is wrong."""
    document, lines = document_of(text)
    reader = Reader(document, lines)
    config = reader.value(Config, document, ())
    _names(reader, document)
    _reports(reader, document)
    _ways_back(reader, document)
    _logins(reader, document)
    _lights(reader, document)
    _refuse(reader)
    return Loaded(config, tuple(dict.fromkeys(reader.notices)))


def document_of(text: str) -> tuple[dict[str, Any], Mapping[tomllines.Path, int]]:
    """Return what TOML holds, and the line of each of its keys. Raises `ConfigError`."""
    try:
        return tomllib.loads(text), tomllines.scan(text)
    except RecursionError:
        raise ConfigError((Problem(None, "", "not valid TOML: brackets are nested too deeply"),)) from None
    except ValueError as error:
        raise ConfigError((_not_toml(error, text),)) from error


def _refuse(reader: "Reader") -> None:
    """Raise ConfigError where anything is wrong."""
    if reader.problems:
        raise ConfigError(tuple(sorted(reader.problems, key=lambda problem: problem.line or 0)))


def _file_error(path: Path, text: str, line: int | None = None) -> ConfigError:
    return ConfigError((Problem(line, printable(str(path)), printable(text)),))


def _not_toml(error: ValueError, text: str) -> Problem:
    said = re.fullmatch(r"(.*) \(at (?:line ([0-9]+), column [0-9]+|end of document)\)", str(error), re.DOTALL)
    if said is None:
        return Problem(None, "", printable(f"not valid TOML: {error}"))
    line = int(said[2]) if said[2] else text.rstrip("\n").count("\n") + 1
    return Problem(line, "", printable(f"not valid TOML: {said[1]}"))


_BAD: Final = object()
"""Stands for a value that has a problem."""

_WORDS: Final[Mapping[type, str]] = {
    bool: "true or false",
    str: "text in quotes",
    int: "a whole number",
    float: "a number with a point",
    list: "a list",
    dict: "a table",
}

_SECRET: Final = re.compile(
    r"(?:.*_)?(?:pass|passwd|password|passphrase|token|secret|key|apikey|credentials?|pin)", re.IGNORECASE
)


class Reader:
    """Turns what TOML holds into what a type asks for, and gathers problems and notices on the way."""

    def __init__(self, document: Mapping[str, Any], lines: Mapping[tomllines.Path, int]) -> None:
        self.problems: list[Problem] = []
        self.notices: list[str] = []
        self._document = document
        self._lines = lines

    def problem(self, path: tomllines.Path, text: str) -> None:
        """Note that ``text`` is wrong at ``path``."""
        known = (path[:length] for length in range(len(path), 0, -1))
        line = next((self._lines[part] for part in known if part in self._lines), None)
        self.problems.append(Problem(line, self._name(path), printable(text)))

    def value(self, kind: Any, raw: Any, path: tomllines.Path) -> Any:
        """Return ``raw`` as ``kind`` wants it, or `_BAD`."""
        kind, rules = _unwrapped(kind)
        origin = get_origin(kind)
        if rules and isinstance(rules[0], Rule):
            return self._ruled(rules[0], raw, path)
        if origin in (Union, UnionType):
            return self._variant(get_args(kind), raw, path)
        if origin is tuple:
            return self._list(get_args(kind)[0], raw, path)
        if origin is not Literal and issubclass(kind, msgspec.Struct):
            return self._table(kind, raw, path)
        if _fits(raw, kind, rules):
            return raw
        self.problem(path, f"expected {_expected(kind, rules)}{_got(kind, raw)}")
        return _BAD

    def _ruled(self, rule: Rule, raw: Any, path: tomllines.Path) -> Any:
        if type(raw) not in rule.takes:
            self.problem(path, f"expected {rule.expected}, in quotes, not {_called(raw)}")
            return _BAD
        try:
            return rule.read(raw)
        except ValueError as error:
            self.problem(path, str(error))
            return _BAD

    def _misshapen(self, wanted: type, raw: Any, path: tomllines.Path) -> Any:
        text = f"expected {_WORDS[wanted]}, not {_called(raw)}"
        if len(path) == 1 and isinstance(raw, dict | list):
            brackets = ("[[", "]]", "double") if wanted is list else ("[", "]", "single")
            text = "write {1}{0}{2}, in {3} brackets".format(path[0], *brackets)
        self.problem(path, text)
        return _BAD

    def _list(self, kind: Any, raw: Any, path: tomllines.Path) -> Any:
        if not isinstance(raw, list):
            return self._misshapen(list, raw, path)
        values: list[Any] = []
        for index, item in enumerate(raw):
            value = self.value(kind, item, (*path, index))
            # a free port may be asked for twice; tables are told apart by their names
            if value in values and isinstance(value, str | int) and value != 0:
                self.problem((*path, index), "it is given twice")
            values.append(value)
        return _BAD if any(value is _BAD for value in values) else tuple(values)

    def _variant(self, kinds: tuple[Any, ...], raw: Any, path: tomllines.Path) -> Any:
        by_tag = {kind.__struct_config__.tag: kind for kind in kinds}
        field = kinds[0].__struct_config__.tag_field
        if not isinstance(raw, dict):
            return self._misshapen(dict, raw, path)
        tag = raw.get(field)
        if isinstance(tag, str) and tag in by_tag:
            return self._table(by_tag[tag], raw, path)
        choice = _choice(by_tag)
        self.problem((*path, field), f"missing; write {choice}" if field not in raw else f"expected {choice}")
        names = {kind: {field, *(known.name for known in _fields(kind))} for kind in kinds}
        able = [kind for kind in kinds if set(raw) <= names[kind]]
        if len(able) == 1:
            # only one can be meant: its other problems are worth telling now
            self._table(able[0], raw, path)
        else:
            self._unknown(raw, sorted(set[str]().union(*names.values())), path)
        return _BAD

    def _table(self, kind: type[msgspec.Struct], raw: Any, path: tomllines.Path) -> Any:
        if not isinstance(raw, dict):
            return self._misshapen(dict, raw, path)
        fields = _fields(kind)
        tag = kind.__struct_config__.tag_field
        self._unknown(raw, [*([tag] if tag else []), *(field.name for field in fields)], path)
        values: dict[str, Any] = {}
        for field in fields:
            here = (*path, field.name)
            if field.name in raw:
                self._later(here, raw[field.name])
                values[field.name] = self.value(field.type, raw[field.name], here)
            elif field.required:
                self.problem(here, f"missing; write {_expected(*_unwrapped(field.type))}")
                values[field.name] = _BAD
        return _BAD if any(value is _BAD for value in values.values()) else kind(**values)

    def _unknown(self, raw: Mapping[str, Any], known: Iterable[str], path: tomllines.Path) -> None:
        known = list(known)
        for key in raw:
            if key not in known:
                self.problem((*path, key), _advice(key, known))

    def _later(self, path: tomllines.Path, raw: Any) -> None:
        key = ".".join(part for part in path if isinstance(part, str))
        for later in LATER:
            if later.key != key or raw == later.save:
                continue
            if len(path) == 1:
                self.notices.append(f"[[{key}]]" if isinstance(raw, list) else f"[{key}]")
            else:
                self.notices.append(self._name(path))

    def _name(self, path: tomllines.Path) -> str:
        words = ""
        at: Any = self._document
        for part in path:
            if isinstance(part, str):
                words += ("." if words else "") + _quoted(part)
                at = at.get(part) if isinstance(at, dict) else None
            else:
                at = at[part]
                name = at.get("name") if isinstance(at, dict) else None
                words += f".{_quoted(name)}" if isinstance(name, str) and name else f"[{part + 1}]"
        return words


def _names(reader: Reader, document: Mapping[str, Any]) -> None:
    """Names that stand twice, and routes to what does not exist; by the document, whatever else is wrong."""
    for key in ("modality", "destination"):
        seen: set[str] = set()
        for index, name in _each(document, key, "name"):
            if name in seen:
                reader.problem((key, index, "name"), f'another {key} is called "{name}" too')
            seen.add(name)
    _signers(reader, document)
    _watches(reader, document)
    _watched_paths(reader, document)
    names = [name for _, name in _each(document, "destination", "name")]
    for index, route in _tables(document, "route"):
        to = route.get("to")
        if to == []:
            reader.problem(("route", index, "to"), "it is empty; name at least one destination")
        for at, name in enumerate(to if isinstance(to, list) else ()):
            if isinstance(name, str) and name not in names:
                hint = _nearest(name, names) or "; add a [[destination]] of that name"
                reader.problem(("route", index, "to", at), f'no destination is called "{name[:64]}"{hint}')


def _signers(reader: Reader, document: Mapping[str, Any]) -> None:
    """Signers that are called alike: nobody could tell whose word a command is."""
    mqtt = document.get("mqtt")
    seen: set[str] = set()
    for index, name in _each(mqtt if isinstance(mqtt, dict) else {}, "signer", "name"):
        if name in seen:
            reader.problem(("mqtt", "signer", index, "name"), f'another signer is called "{name[:64]}" too')
        seen.add(name)


_OURS: Final = ("spool", "quarantine", "db", "identity")
"""Folders in the storage path whose files are never to be touched."""
_SOON: Final = 2.0


def _watched_paths(reader: Reader, document: Mapping[str, Any]) -> None:
    """Watches that would take what the box itself has stored or delivered."""
    storage = document.get("storage")
    given = storage.get("path") if isinstance(storage, dict) else None
    watches = list(_each(document, "watch", "path"))
    if not watches:
        return
    root = _resolved(given if isinstance(given, str) else str(Storage().path))
    delivered = [_resolved(path) for _, path in _each(document, "destination", "path")]
    for index, path in watches:
        folder = _resolved(path)
        if root.is_relative_to(folder) or any(folder.is_relative_to(root / name) for name in _OURS):
            reader.problem(("watch", index, "path"), "it would take the appliance's own files from storage.path")
        if any(one.is_relative_to(folder) or folder.is_relative_to(one) for one in delivered):
            reader.problem(("watch", index, "path"), "it would take back what a destination of type folder was given")


def _resolved(path: str) -> PurePath:
    """Follow links and points in ``path``, as far as it exists and its file system answers soon."""
    found: list[str] = []

    def follow() -> None:
        with contextlib.suppress(OSError, ValueError):
            found.append(os.path.realpath(path))

    # a share that hangs must not keep the appliance from starting
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    thread.join(_SOON)
    return PurePath(found[0] if found else os.path.normpath(path))


def _watches(reader: Reader, document: Mapping[str, Any]) -> None:
    """Watches that are called alike, are one inside the other, or that no route's glob can mean."""
    seen: dict[str, PurePath] = {}
    for index, table in _tables(document, "watch"):
        path, name = table.get("path"), table.get("name")
        if not isinstance(path, str) or not path:
            continue
        folder = _resolved(path)
        title = name if isinstance(name, str) and name else PurePath(path).name
        if title in seen:
            reader.problem(("watch", index, "name"), f'another watch is called "{title[:64]}" too; give it a name')
        elif any(folder.is_relative_to(other) or other.is_relative_to(folder) for other in seen.values()):
            reader.problem(("watch", index, "path"), "it lies in another watch, or that in it: files would go twice")
        seen[title] = folder
    modalities = [name for _, name in _each(document, "modality", "name")]
    for index, route in _tables(document, "route"):
        when = route.get("when")
        if isinstance(when, dict):
            _meant(reader, (index, "watch"), when, list(seen), "watch")
            _meant(reader, (index, "source"), when, [*modalities, *seen], "modality or watch")


def _meant(reader: Reader, at: tuple[int, str], when: Mapping[str, Any], names: list[str], what: str) -> None:
    """Find patterns that can mean none of ``names``."""
    index, key = at
    globs = when.get(key)
    for glob in [globs] if isinstance(globs, str) else globs if isinstance(globs, list) else []:
        if isinstance(glob, str) and not any_matches([Pattern(glob, exact=True)], names):
            hint = _nearest(glob, names) or f"; add a [[{what.split(maxsplit=1)[0]}]] of that name"
            reader.problem(("route", index, "when", key), f'no {what} is called "{glob[:64]}"{hint}')


def _reports(reader: Reader, document: Mapping[str, Any]) -> None:
    """Find commitment reports without a host, from a modality whose address is not one."""
    for index, modality in _tables(document, "modality"):
        report, address = modality.get("commitment"), modality.get("address", "/")
        if isinstance(report, dict) and "host" not in report and isinstance(address, str) and "/" in address:
            path = ("modality", index, "commitment", "host")
            reader.problem(path, "missing; the modality has no single address to which reports could go")


def _ways_back(reader: Reader, document: Mapping[str, Any]) -> None:
    """Find destinations whose commitment reports would go to the modality for which we call."""
    for index, destination in _tables(document, "destination"):
        verify = destination.get("verify")
        asks = isinstance(verify, str) and verify.startswith("commitment")
        if asks and destination.get("calling_ae_title") == "original" and destination.get("type") == "dimse":
            text = 'its reports would go to the modality; use "query", or a calling_ae_title of this box'
            reader.problem(("destination", index, "verify"), text)


_LOGINS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "none": ((), ()),
    "basic": (("username", "password_file"), ()),
    "bearer": (("token_file",), ()),
    "oauth2": (("token_url", "client_id", "client_secret_file"), ("scope",)),
    "google": (("service_account_file",), ("scope",)),
}
"""What each type of login needs, and what it may have beside."""


def _logins(reader: Reader, document: Mapping[str, Any]) -> None:
    """Find logins that lack something, or have what does nothing there."""
    for index, destination in _tables(document, "destination"):
        auth = destination.get("auth")
        kind = auth.get("type", "none") if isinstance(auth, dict) else None
        if not isinstance(auth, dict) or not isinstance(kind, str) or kind not in _LOGINS:
            continue
        path = ("destination", index, "auth")
        needed, allowed = _LOGINS[kind]
        for key in needed:
            if auth.get(key, "") == "":
                reader.problem((*path, key), f'missing; type "{kind}" needs it')
        known = set[str]().union(*(set(a) | set(b) for a, b in _LOGINS.values()))
        for key in auth:
            if key in known and key not in (*needed, *allowed):
                reader.problem((*path, key), f'it does nothing with type "{kind}"')


_COLORS: Final = ("red", "green", "blue")
_LIGHTS: Final[Mapping[str, tuple[str, ...]]] = {
    "none": (),
    "leds": (*_COLORS, "multicolor"),
    "gpio": ("chip", *(f"{color}_line" for color in _COLORS), "active_low"),
    "file": ("path",),
}
"""What each driver may have."""


def _lights(reader: Reader, document: Mapping[str, Any]) -> None:
    """Find a driver that lacks what it drives, or has what does nothing there."""
    lights = document.get("lights")
    driver = lights.get("driver", "none") if isinstance(lights, dict) else None
    if not isinstance(lights, dict) or not isinstance(driver, str) or driver not in _LIGHTS:
        return
    known = set[str]().union(*_LIGHTS.values())
    for key in lights:
        if key in known and key not in _LIGHTS[driver]:
            reader.problem(("lights", key), f'it does nothing with driver "{driver}"')
    at = ("lights", "driver")
    if driver == "leds":
        if not any(key in lights for key in _LIGHTS["leds"]):
            reader.problem(at, 'name at least one LED: red, green and blue, or multicolor; see "ls /sys/class/leds"')
        if "multicolor" in lights and any(color in lights for color in _COLORS):
            reader.problem(("lights", "multicolor"), "name one LED of many colours, or one of each colour, not both")
        _twice(reader, lights, _COLORS)
    elif driver == "gpio":
        lines = [f"{color}_line" for color in _COLORS]
        if not any(line in lights for line in lines):
            reader.problem(at, "name at least one line: red_line, green_line, blue_line")
        _twice(reader, lights, lines)
    elif driver == "file" and "path" not in lights:
        reader.problem(("lights", "path"), 'missing; driver "file" needs it')


def _twice(reader: Reader, lights: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Find one LED or line that stands for two colours."""
    seen: dict[object, str] = {}
    for key in keys:
        value = lights.get(key)
        if isinstance(value, str | int) and seen.setdefault(value, key) != key:
            reader.problem(("lights", key), f"it is {seen[value]} already")


def _tables(document: Mapping[str, Any], key: str) -> list[tuple[int, dict[str, Any]]]:
    found = document.get(key)
    return [(i, t) for i, t in enumerate(found) if isinstance(t, dict)] if isinstance(found, list) else []


def _each(document: Mapping[str, Any], key: str, field: str) -> list[tuple[int, str]]:
    found = ((index, table.get(field)) for index, table in _tables(document, key))
    return [(index, text) for index, text in found if isinstance(text, str)]


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


def _unwrapped(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type without "or None", which TOML cannot say, and what `Annotated` says of it."""
    rules: tuple[Any, ...] = ()
    while True:
        if get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            rules += tuple(more)
        elif get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind):
            kind = functools.reduce(lambda a, b: a | b, (k for k in get_args(kind) if k is not NoneType))
        else:
            return kind, rules


def _fits(raw: Any, kind: Any, rules: tuple[msgspec.Meta, ...]) -> bool:
    if get_origin(kind) is Literal:
        return raw in get_args(kind)
    # a bool is an int to Python, not to a person
    return type(raw) is kind and all(
        (rule.ge is None or raw >= rule.ge) and (rule.le is None or raw <= rule.le) for rule in rules
    )


def _expected(kind: Any, rules: tuple[Any, ...]) -> str:
    for rule in rules:
        if isinstance(rule, Rule):
            return rule.expected
        return f"a whole number from {rule.ge} to {rule.le}"
    if get_origin(kind) is Literal:
        return _choice(get_args(kind))
    return _WORDS.get(get_origin(kind) or kind, "a table" if get_origin(kind) is None else "a list")


def _got(kind: Any, raw: Any) -> str:
    if get_origin(kind) is Literal:
        return f', not "{raw[:40]}"' if isinstance(raw, str) else f", not {_called(raw)}"
    # Python does not write out a number of any length
    short = kind is int and type(raw) is int and abs(raw) < 10**12
    return f", not {raw}" if short else f", not {_called(raw)}"


def _called(raw: Any) -> str:
    return _WORDS.get(type(raw), "a date or time")


def _choice(words: Iterable[str]) -> str:
    *first, last = (f'"{word}"' for word in words)
    return f"{', '.join(first)} or {last}" if first else last


def _advice(key: str, known: list[str]) -> str:
    if not _SECRET.fullmatch(key):
        return "unknown key" + (_nearest(key.lower(), known) or f"; known here: {', '.join(known)}")
    files = [name for name in known if name.endswith("_file")]
    own = f"{key.lower()}_file"
    use = _choice([own] if own in files else files or ["password_file"])
    return f"a secret never stands in the configuration; put it in a file of its own and use {use}"


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def _quoted(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key) else f'"{printable(key, 64)}"'
