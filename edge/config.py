"""The configuration as values: what an appliance is told, complete with defaults.

Frozen structs whose names are those of the TOML file. Durations are seconds, sizes bytes, rates bytes per
second, lists tuples. Nothing is read or checked here: `edge.configfile` makes these from a file, by the types
below and the rules that stand in them, so a field added here needs no change there. A struct built by hand
(as tests do) is not checked.
"""

import base64
import ipaddress
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal
from urllib.parse import urlsplit

import msgspec

from edge import units

KiB: Final = 2**10
GiB: Final = 2**30


class Rule(msgspec.Struct, frozen=True):
    """How a kind of value is read from what TOML holds, standing as `Annotated` metadata in a field's type.

    ``read`` is called with a value of one of the types in ``takes``, and returns the field's value or raises
    ValueError with a sentence. ``expected`` completes "expected …".
    """

    takes: tuple[type, ...]
    expected: str
    read: Callable[[Any], Any]


def _text(expected: str, read: Callable[[str], object]) -> Rule:
    return Rule((str,), expected, read)


def _within(read: Callable[[str], float], least: float, most: float, words: str) -> Callable[[str], float]:
    def check(text: str) -> float:
        value = read(text)
        if not least <= value <= most:
            raise ValueError(f'"{text}" is out of range; it must be {words}')
        return value

    return check


def _ae_title(text: str) -> str:
    # PS3.5 6.2, AE: default repertoire without backslash and control characters, outer spaces not significant
    title = text.strip(" ")
    if not title:
        raise ValueError("an AE title cannot be empty or all spaces")
    if len(title) > 16:
        raise ValueError(f"an AE title has at most 16 characters, this one has {len(title)}")
    if "\\" in title or not (title.isascii() and title.isprintable()):
        raise ValueError("an AE title is made of plain letters, digits and signs, without backslash or accents")
    return title


def _word(text: str) -> str:
    # these become topic levels, log words and parts of addresses
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise ValueError("a name here is 1 to 64 letters, digits, dots, dashes or underscores, without spaces")
    return text


def _label(text: str) -> str:
    if not text.strip():
        raise ValueError("it cannot be empty")
    return _line(text)


def _line(text: str) -> str:
    if len(text) > 64 or not text.isprintable():
        raise ValueError("it must be one line of at most 64 characters")
    return text


def _path(text: str) -> Path:
    # the text is not repeated: it may be the secret itself, given where its file belongs
    if not text or not text.isprintable():
        raise ValueError("this is not the path of a file or folder; write one such as /etc/edge/key.pem")
    return Path(text)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _host(text: str) -> str:
    labels = text.rstrip(".").split(".")
    if len(text) <= 253 and all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}", label) for label in labels):
        return text
    if _is_address(text):
        return text
    raise ValueError(f'"{text}" is not a host; write a name or an address, without port or "//"')


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f'"{text}" is not an address; write for example "192.168.10.20" or "192.168.10.0/24"'
        ) from None
    return text


def _url(*schemes: str) -> Callable[[str], str]:
    example = f'"{schemes[-1]}://host.example.org"'

    def check(text: str) -> str:
        # the text is not repeated: it may carry a password
        try:
            parts = urlsplit(text)
            bad = parts.scheme not in schemes or not parts.hostname or parts.port == 0
        except ValueError:
            bad, parts = True, urlsplit("")
        if bad or not text.isprintable() or " " in text:
            raise ValueError(f"this is not an address of the right kind; write for example {example}")
        if parts.username is not None:
            raise ValueError('user and password do not stand in an address; use "username" and "password_file"')
        return text

    return check


def _service_url(text: str) -> str:
    if any(sign in _url("http", "https")(text) for sign in "?#"):
        raise ValueError('it ends with its path, without "?" and "#"')
    return text.rstrip("/")


def _update_url(text: str) -> str:
    parts = urlsplit(_service_url(text))
    if parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "::1", "localhost"}:
        raise ValueError('it begins with "https://"; only on this machine "http://" will do')
    return text.rstrip("/")


def _globs(given: str | list[Any]) -> tuple[str, ...]:
    found = (given,) if isinstance(given, str) else tuple(given)
    if not found or not all(isinstance(glob, str) and glob for glob in found):
        raise ValueError('write a pattern such as "CT*", or a list of them; none may be empty')
    return found


def _led(text: str) -> str:
    # a name in a folder of the kernel, never a way out of it
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9:._@+-]{0,62}", text):
        raise ValueError("this is no name of an LED; write one as ls /sys/class/leds shows it")
    return text


def _public_key(text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("it is not base64") from None
    if len(raw) != 32:
        raise ValueError(f"an Ed25519 public key has 32 bytes, this has {len(raw)}")
    return text


Seconds = Annotated[float, _text('a duration such as "90s" or "72h"', units.duration)]
Timeout = Annotated[
    float,
    _text('a duration such as "10s"', _within(units.duration, 0.001, 86400, 'from "1ms" to "24h"')),
]
Settle = Annotated[
    float,
    _text('a duration such as "5s"', _within(units.duration, 0.1, 86400, 'from "100ms" to "24h"')),
]
KeepAlive = Annotated[
    float,
    _text('a duration such as "60s"', _within(units.duration, 5, 3600, 'from "5s" to "1h"')),
]
Silence = Annotated[
    float,
    _text('a duration such as "3d"', _within(units.duration, 60, 366 * 86400, 'from "1m" to "366d"')),
]
Bytes = Annotated[int, _text('a size such as "2GiB"', units.size)]
ObjectSize = Annotated[
    int, _text('a size such as "16GiB"', _within(units.size, 1024, 2**50, 'from "1KiB" to "1024TiB"'))
]
PduLength = Annotated[int, _text('a size such as "256KiB"', _within(units.size, 4096, 2**20, 'from "4KiB" to "1MiB"'))]
ControlLength = Annotated[
    int, _text('a size such as "128KiB"', _within(units.size, 4096, 2**19, 'from "4KiB" to "512KiB"'))
]
Rate = Annotated[int, _text('a rate such as "8Mbit/s"', units.rate)]
Hours = Annotated[tuple[int, int], _text('hours such as "20:00-06:00"', units.hours)]
AeTitle = Annotated[str, _text('an AE title such as "EDGE", 1 to 16 characters', _ae_title)]
Word = Annotated[str, _text('a name such as "pacs"', _word)]
Label = Annotated[str, _text('a name such as "CT 1"', _label)]
Line = Annotated[str, _text("a line of text", _line)]
FilePath = Annotated[Path, _text('a path such as "/etc/edge/key.pem"', _path)]
Host = Annotated[str, _text('a host such as "pacs.example.org" or "192.168.10.5"', _host)]
Network = Annotated[str, _text('an address such as "192.168.10.20" or "192.168.10.0/24"', _network)]
HttpUrl = Annotated[str, _text('an address such as "https://cloud.example.org"', _url("http", "https"))]
ServiceUrl = Annotated[str, _text('an address such as "https://cloud.example.org/dicom-web"', _service_url)]
MqttUrl = Annotated[str, _text('an address such as "mqtts://broker.example.org:8883"', _url("mqtt", "mqtts"))]
UpdateUrl = Annotated[str, _text('an address such as "https://updates.example.org/edge"', _update_url)]
Globs = Annotated[tuple[str, ...], Rule((str, list), 'a pattern such as "CT*", or a list of them', _globs)]
LedName = Annotated[str, _text('the name of an LED below /sys/class/leds, such as "edge:red"', _led)]
GpioLine = Annotated[int, msgspec.Meta(ge=0, le=1023)]
PublicKey = Annotated[str, _text("an Ed25519 public key, 32 bytes in base64", _public_key)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
"""0 means a free one, which only tests want."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """What the box is called, and the language it speaks to people."""

    name: Label = "dicom-edge"
    site: Line = ""
    language: Literal["en", "es"] = "en"


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """Where objects are kept, and for how long."""

    path: FilePath = Path("/var/lib/edge")
    reserve: Bytes | None = None
    """Free space never used for objects; None: decided from the disk."""
    keep_delivered: Seconds = 72 * 3600.0
    keep_trail: Seconds = 400 * 86400.0


class ReceiveTimeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long a sender may take: to ask for an association once connected, for TLS before it, between messages."""

    request: Timeout = 10.0
    handshake: Timeout = 10.0
    idle: Timeout = 1800.0


class ReceiveTls(msgspec.Struct, frozen=True, kw_only=True):
    """The listener's second, encrypted port."""

    port: Port = 2762
    certificate_file: FilePath
    key_file: FilePath
    client_ca_file: FilePath | None = None
    """Who may have signed a modality's certificate; None: none is asked for."""


class Receive(msgspec.Struct, frozen=True, kw_only=True):
    """The DICOM listener: who we are, whom we hear, how much at once."""

    ae_title: AeTitle = "EDGE"
    ae_titles: tuple[AeTitle, ...] = ()
    address: Host = "0.0.0.0"  # noqa: S104 - modalities are on the network
    port: Port = 11112
    ports: tuple[Port, ...] = ()
    accept: Literal["known", "any"] = "known"
    max_associations: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 32
    max_associations_per_address: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8
    max_pdu: PduLength = 256 * KiB
    private_storage: bool = True
    """Whether private SOP classes are taken too."""
    max_object: ObjectSize = 16 * GiB
    max_control: ControlLength = 128 * KiB
    """Of an A-ASSOCIATE PDU or a command set, which must be held in memory."""
    least_rate: Rate = KiB
    """Of an object on its way, over every half minute."""
    timeouts: ReceiveTimeouts = ReceiveTimeouts()
    tls: ReceiveTls | None = None

    @property
    def titles(self) -> tuple[str, ...]:
        """Every AE title we answer to; at least one."""
        return self.ae_titles or (self.ae_title,)

    @property
    def all_ports(self) -> tuple[int, ...]:
        """Every port we listen on without TLS; at least one."""
        return self.ports or (self.port,)


class ReportTo(msgspec.Struct, frozen=True, kw_only=True):
    """Where a modality wants its storage commitment reports."""

    host: Host | None = None
    """None: the modality's address."""
    port: Port = 104
    ae_title: AeTitle


class Modality(msgspec.Struct, frozen=True, kw_only=True):
    """A sender we know."""

    name: Label
    ae_title: AeTitle
    address: Network | None = None
    """An address or a network; None: any."""
    commitment: ReportTo | None = None
    silent_after: Silence | None = None
    """How long nothing may be heard of it before that is a finding; None: for ever."""
    honor_priority: bool = False
    """Whether what it says in Priority (0000,0700) counts: many say anything."""


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """A folder whose files are taken."""

    path: FilePath
    name: Word | None = None
    """What routes and findings call it; else the last part of ``path``."""
    settle: Settle = 5.0
    """How long a file must not have changed before it is read."""
    after: Literal["move", "delete", "keep"] = "move"
    """What becomes of a file that was taken: to ``done/`` in this folder, deleted, or left and remembered."""
    rescan: Timeout = 30.0
    """How often the folder is looked through where its file system tells of no change."""
    patience: Timeout = 600.0
    """How long a file may be there without being taken before that is a finding."""
    ae_title: AeTitle | None = None
    """The calling AE title that its objects are taken to have."""
    called_ae_title: AeTitle | None = None
    """The called AE title; else the first of ``receive``."""

    @property
    def title(self) -> str:
        """What it is called."""
        return self.name or self.path.name or str(self.path)


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long a destination may take: to connect, and to answer."""

    connect: Timeout = 10.0
    response: Timeout = 60.0


class ClientTls(msgspec.Struct, frozen=True, kw_only=True):
    """How we prove who we are, and whom we believe; None: no certificate, the system's authorities."""

    ca_file: FilePath | None = None
    certificate_file: FilePath | None = None
    key_file: FilePath | None = None


class DimseDestination(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="dimse"):
    """A PACS that takes C-STORE."""

    type: ClassVar[Literal["dimse"]] = "dimse"
    name: Word
    host: Host
    port: Port = 104
    ae_title: AeTitle
    associations: Annotated[int, msgspec.Meta(ge=1, le=64)] = 16
    verify: Literal["commitment", "query", "commitment-or-query", "none"] = "none"
    calling_ae_title: AeTitle = "EDGE"
    """``original`` is the modality's own."""
    unsupported: Literal["hold", "skip"] = "hold"
    decompress: bool = False
    """Whether what it refuses may be sent decompressed, where it was compressed without loss."""
    tls: ClientTls | None = None
    timeouts: Timeouts = Timeouts()
    max_pdu: PduLength = 256 * KiB
    hours: Hours | None = None
    """Minutes of the day between which background work may go; None: always."""
    rate_limit: Rate | None = None


class Auth(msgspec.Struct, frozen=True, kw_only=True):
    """How we log in to a DICOMweb server; every secret is a file."""

    type: Literal["none", "basic", "bearer", "oauth2", "google"] = "none"
    username: Line = ""
    password_file: FilePath | None = None
    token_file: FilePath | None = None
    token_url: HttpUrl | None = None
    client_id: str = ""
    client_secret_file: FilePath | None = None
    scope: str = ""
    service_account_file: FilePath | None = None


class DicomwebDestination(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="dicomweb"):
    """A server that takes STOW-RS."""

    type: ClassVar[Literal["dicomweb"]] = "dicomweb"
    name: Word
    url: ServiceUrl
    associations: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Requests side by side, each on a connection of its own."""
    auth: Auth = Auth()
    verify: Literal["query", "commitment", "commitment-or-query", "none"] = "query"
    unsupported: Literal["hold", "skip"] = "hold"
    decompress: bool = False
    """Whether what it refuses may be sent decompressed, where it was compressed without loss."""
    tls: ClientTls | None = None
    """None: no certificate of ours, the system's authorities."""
    timeouts: Timeouts = Timeouts()
    rate_limit: Rate | None = None
    hours: Hours | None = None

    @property
    def secure(self) -> bool:
        """Whether it is reached by TLS."""
        return self.url.lower().startswith("https:")


class FolderDestination(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="folder"):
    """A folder that gets the files."""

    type: ClassVar[Literal["folder"]] = "folder"
    name: Word
    path: FilePath
    verify: Literal["none"] = "none"


Destination = DimseDestination | DicomwebDestination | FolderDestination


class When(msgspec.Struct, frozen=True, kw_only=True):
    """What a route chooses by: globs, any of which may match; an empty tuple asks nothing."""

    modality: Globs = ()
    calling: Globs = ()
    called: Globs = ()
    sop_class: Globs = ()
    study_description: Globs = ()
    station: Globs = ()
    source: Globs = ()
    body_part: Globs = ()
    watch: Globs = ()


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Which objects go where. Routes that match add up; with no route at all everything goes everywhere."""

    when: When = When()
    to: tuple[Word, ...]
    priority: Literal["routine", "stat", "background"] = "routine"


class Commitment(msgspec.Struct, frozen=True, kw_only=True):
    """When a modality's commitment request is answered: once stored here, or once delivered upstream."""

    answer: Literal["stored", "delivered"] = "delivered"
    refuse_after: Seconds = 86_400.0
    """How long an object may be held, given up or passed over before the modality is told that it is not safe."""


class Signer(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody whose commands are obeyed."""

    name: Word
    """As commands name it in ``issued_by``."""
    public_key: PublicKey


class Mqtt(msgspec.Struct, frozen=True, kw_only=True):
    """The broker that central IT listens on."""

    url: MqttUrl
    username: Line = ""
    password_file: FilePath | None = None
    ca_file: FilePath | None = None
    certificate_file: FilePath | None = None
    key_file: FilePath | None = None
    home_assistant: bool = False
    acknowledged: bool = True
    """Whether a monitor acknowledges events; False: they leave once the broker has them."""
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    """``auto``: 5, and 3.1.1 where the broker does not know it."""
    keep_alive: KeepAlive = 60.0
    events: Annotated[int, msgspec.Meta(ge=1000, le=10_000_000)] = 200_000
    """Events kept at most while nobody takes them."""
    signer: tuple[Signer, ...] = ()


class Dashboard(msgspec.Struct, frozen=True, kw_only=True):
    """Where the web pages are, and how they prove that they are ours."""

    enabled: bool = True
    address: Host = "127.0.0.1"
    port: Port = 8080
    hosts: tuple[Host, ...] = ()
    """Further names that people type to reach this box."""
    certificate_file: FilePath | None = None
    """None: on an address that needs one, a certificate of its own is made."""
    key_file: FilePath | None = None
    """None: the key is in ``certificate_file``."""


class Lights(msgspec.Struct, frozen=True, kw_only=True):
    """The status light's hardware."""

    driver: Literal["none", "leds", "gpio", "file"] = "none"
    red: LedName | None = None
    """Of driver ``leds``: the LED of each colour, as the kernel calls it; None: there is none."""
    green: LedName | None = None
    blue: LedName | None = None
    multicolor: LedName | None = None
    """Instead of these: one LED of many colours."""
    chip: FilePath = Path("/dev/gpiochip0")
    """Of driver ``gpio``."""
    red_line: GpioLine | None = None
    green_line: GpioLine | None = None
    blue_line: GpioLine | None = None
    active_low: bool = False
    """Whether an LED is on while its line is low."""
    path: FilePath | None = None
    """Of driver ``file``: where it is written."""


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """Where the box's image is updated from."""

    url: UpdateUrl | None = None
    """The folder of bundles; None: only files in the room are installed."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an appliance is told. ``Config()`` stores what anyone sends and delivers nothing."""

    device: Device = Device()
    storage: Storage = Storage()
    receive: Receive = Receive()
    modality: tuple[Modality, ...] = ()
    watch: tuple[Watch, ...] = ()
    destination: tuple[Destination, ...] = ()
    route: tuple[Route, ...] = ()
    commitment: Commitment = Commitment()
    mqtt: Mqtt | None = None
    dashboard: Dashboard = Dashboard()
    lights: Lights = Lights()
    update: Update = Update()


def differences(old: object, new: object, path: str = "") -> Iterator[str]:
    """Give the keys whose values differ, dotted, elements of a list by their names."""
    if old == new:
        return
    if isinstance(old, msgspec.Struct) and type(old) is type(new):
        for field in old.__struct_fields__:
            yield from differences(getattr(old, field), getattr(new, field), f"{path}.{field}" if path else field)
        return
    before, after = _by_name(old), _by_name(new)
    if before is None or after is None:
        yield path
        return
    for name in dict.fromkeys([*before, *after]):
        yield from differences(before.get(name), after.get(name), f"{path}.{name}")


def _by_name(value: object) -> dict[str, object] | None:
    if not isinstance(value, tuple) or not all(hasattr(item, "name") for item in value):
        return None
    return {item.name: item for item in value}
