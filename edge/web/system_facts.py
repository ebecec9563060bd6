"""What the page *System* says once, when it is opened: names, ports, certificates, versions. It reads files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from edge.config import Config, DicomwebDestination, DimseDestination
from edge.status.certificates import AHEAD
from edge.status.machine import Machine
from edge.status.versions import Versions
from edge.tls import date, validity
from edge.updating.reasons import sentence
from edge.web import certificate
from edge.web.box import Box
from edge.web.label import in_lines
from edge.web.language import Language
from edge.web.page import N_
from edge.web.system import Fact, State

_DICOM: Final = N_("DICOM")
_DICOM_TLS: Final = N_("DICOM with TLS")
_DASHBOARD: Final = N_("Dashboard")


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """One of ours, that others look at."""

    where: str
    """The table of the configuration, such as ``receive.tls``."""
    name: str
    """Whose it is; empty where it cannot be read."""
    until: str
    word: str
    state: State
    fingerprint: tuple[str, ...]
    """SHA-256, in lines of pairs of digits."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is told once."""

    network: list[Fact]
    certificates: list[Certificate]
    software: list[Fact]
    libraries: list[Fact]


def facts(box: Box, language: Language, machine: Machine, versions: Versions) -> Facts:
    """Read what is to be told, in the calling thread."""
    return Facts(
        network=list(_network(box, language)),
        certificates=[_certificate(box, language, where, path) for where, path in _own_certificates(box)],
        software=list(_software(box, language, machine, versions)),
        libraries=[Fact(word=name, value=version) for name, version in versions.libraries.items()],
    )


def _network(box: Box, language: Language) -> Iterator[Fact]:
    _, receive, dashboard = language.gettext, box.config.receive, box.config.dashboard
    yield Fact(word=_("Addresses"), value=", ".join(box.addresses()) or _("Not known: perhaps there is no network"))
    yield Fact(word=_("AE titles"), value=", ".join(receive.titles))
    opened = box.open_ports()
    ports = [(_DICOM, receive.address, port) for port in receive.all_ports]
    ports += [] if receive.tls is None else [(_DICOM_TLS, receive.address, receive.tls.port)]
    ports += [(_DASHBOARD, dashboard.address, dashboard.port)]
    for word, address, port in ports:
        value = _("port %(port)s on %(address)s", port=port, address=address)
        if not port or opened is None:
            yield Fact(word=language.say(word), value=value)
        elif port in opened:
            yield Fact(word=language.say(word), value=value, note=_("open"), state="good")
        else:
            yield Fact(word=language.say(word), value=value, note=_("not open"), state="bad")
    yield _broker(box, language)


def _broker(box: Box, language: Language) -> Fact:
    _, mqtt, word = language.gettext, box.config.mqtt, language.gettext("Central monitoring (MQTT)")
    if mqtt is None:
        return Fact(word=word, value=_("Not configured"))
    trouble = next((one.text for one in box.journal.open() if one.code == "BROKER_DOWN"), "")
    if trouble:
        return Fact(word=word, value=_("Not connected"), note=language.say(trouble), state="care")
    return Fact(word=word, value=_("No trouble is known"), state="good")


def _own_certificates(box: Box) -> Iterator[tuple[str, Path]]:
    config: Config = box.config
    own = config.dashboard.certificate_file or box.identity / certificate.NAME
    if config.dashboard.certificate_file is not None or own.exists():
        yield "dashboard", own
    if config.receive.tls is not None:
        yield "receive.tls", config.receive.tls.certificate_file
    for destination in config.destination:
        tls = destination.tls if isinstance(destination, DimseDestination | DicomwebDestination) else None
        if tls is not None and tls.certificate_file is not None:
            yield f"destination.{destination.name}.tls", tls.certificate_file
    if config.mqtt is not None and config.mqtt.certificate_file is not None:
        yield "mqtt", config.mqtt.certificate_file


def _certificate(box: Box, language: Language, where: str, path: Path) -> Certificate:
    _, valid = language.gettext, validity(path)
    try:
        pairs = in_lines(certificate.fingerprint(path))
    except (OSError, ValueError):
        pairs = ()
    if valid is None or not pairs:
        return Certificate(where=where, name="", until="", word=_("It cannot be read"), state="bad", fingerprint=pairs)
    word, state = _judged(box, language, valid.begins, valid.ends)
    return Certificate(where=where, name=valid.name, until=date(valid.ends), word=word, state=state, fingerprint=pairs)


def _judged(box: Box, language: Language, begins: float, ends: float) -> tuple[str, State]:
    _, now = language.gettext, box.clock.now()
    if not box.clock.trusted():
        return _("The clock is not trusted"), "care"
    if now > ends:
        return _("Ended"), "bad"
    if now < begins:
        return _("Not valid yet"), "bad"
    days = int((ends - now) // 86_400)
    state: State = "care" if ends - now < AHEAD else "good"
    return language.ngettext("%(n)s day left", "%(n)s days left", days), state


def _software(box: Box, language: Language, machine: Machine, versions: Versions) -> Iterator[Fact]:
    _, unknown = language.gettext, language.gettext("Not told by this machine")
    yield Fact(word="dicom-edge", value=versions.edge)
    if box.slot:
        yield _image(box, language)
    yield Fact(word=_("Operating system"), value=machine.system or unknown)
    yield Fact(word=_("Kernel"), value=machine.kernel or unknown, note=versions.architecture)
    yield Fact(word="Python", value=versions.python)
    yield Fact(word="OpenSSL", value=versions.openssl)


def _image(box: Box, language: Language) -> Fact:
    _, state = language.gettext, box.update()
    phase = state.phase
    notes = {
        "none": _("no update so far"),
        "downloading": _("update to %(version)s: being fetched", version=state.to),
        "installing": _("update to %(version)s: being installed", version=state.to),
        "waiting": _("update to %(version)s: starts once nothing comes in for a minute", version=state.to),
        "trial": _("update to %(version)s: on trial", version=state.to),
        "done": _("update to %(version)s: done", version=state.to),
        "failed": _("update to %(version)s: failed", version=state.to or "?"),
        "rolled-back": _("update to %(version)s: taken back", version=state.to),
    }
    why = f" ({language.say(sentence(state.reason))})" if state.reason else ""
    care: State = "care" if phase in {"failed", "rolled-back"} else ""
    return Fact(word=_("System image"), value=_("slot %(slot)s", slot=box.slot), note=notes[phase] + why, state=care)
