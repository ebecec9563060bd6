"""`scripts/mqtt-conformance`: see docs/mqtt.md."""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge.messages import State
from scripts.conformance import condition, presence, stream
from scripts.conformance.broker import Access, Listened, UnreachableError, listen
from scripts.conformance.heard import Node, gather
from scripts.conformance.verdict import Verdict, Watch

JUDGES: Final[Mapping[str, Callable[[Node, Watch], Verdict]]] = {
    "payloads": presence.payloads,
    "flags": presence.flags,
    "presence": presence.presence,
    "session": presence.session,
    "lease": presence.lease,
    "health": condition.health,
    "metrics": stream.metrics,
    "events": stream.events,
    "reports": stream.reports,
}
"""Every check, in the order of the table."""
_STYLES: Final = {"ok": "green", "FAILED": "bold red", "unclear": "yellow"}
_SECONDS: Final = 75.0
_CANNOT: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Listen and judge: 0 all keep the contract, 1 one does not, 2 nothing was heard or it was asked wrongly."""
    asked = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        password = asked.password_file.read_text(encoding="utf-8").rstrip("\r\n") if asked.password_file else ""
        access = Access(
            url=asked.url,
            username=asked.username,
            password=password,
            ca_file=asked.ca_file,
            certificate_file=asked.certificate_file,
            key_file=asked.key_file,
        )
        listened = listen(access, asked.seconds, asked.node)
    except (OSError, UnreachableError) as e:
        print(f"scripts/mqtt-conformance: {e}", file=sys.stderr)
        return _CANNOT
    return conclude(listened, asked.seconds, Console())


def conclude(listened: Listened, seconds: float, console: Console) -> int:
    """Judge what was heard and print it. Returns the exit code."""
    watch = Watch(ended=listened.ended, seconds=seconds, now=time.time(), flags=listened.flags)
    nodes = gather(listened.messages)
    if not nodes:
        console.print(f"No node was heard in {seconds:g} s.")
        return _CANNOT
    failed = 0
    for name in sorted(nodes):
        verdicts = {check: judge(nodes[name], watch) for check, judge in JUDGES.items()}
        console.print(_table(nodes[name], verdicts))
        failed += any(verdict.word == "FAILED" for verdict in verdicts.values())
    if not listened.flags:
        console.print("The broker speaks MQTT 3.1.1: whether messages are sent with the retain flag cannot be seen.")
    console.print(f"{len(nodes)} heard, {failed} of them failed; {len(listened.messages)} messages in {seconds:g} s.")
    return 1 if failed else 0


def _table(node: Node, verdicts: Mapping[str, Verdict]) -> Table:
    state = node.last(State)
    said = f"{state.state}, session {state.session}" if state is not None else "no state"
    table = Table("check", "verdict", "detail", title=Text(_plain(f"{node.name}: {said}")), title_justify="left")
    for check, verdict in verdicts.items():
        # a detail may hold what a stranger sent
        table.add_row(check, f"[{_STYLES[verdict.word]}]{verdict.word}[/]", Text(_plain(verdict.detail)))
    return table


def _plain(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/mqtt-conformance",
        description="Listens at a broker, and says of each appliance whether it keeps the contract of docs/mqtt.md.",
    )
    parser.add_argument("--url", required=True, type=_url, help="mqtt://host:1883 or mqtts://host:8883")
    parser.add_argument("--username", default="", metavar="NAME", help="where the broker asks for one")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="holds the password")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="who signs the broker's certificate")
    parser.add_argument("--certificate-file", type=Path, metavar="FILE", help="our certificate")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="its private key")
    parser.add_argument("--node", default="+", metavar="ID", help="one node; without it all")
    parser.add_argument(
        "--seconds", default=_SECONDS, type=_positive, metavar="N", help=f"how long to listen ({_SECONDS:g})"
    )
    return parser


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname or parts.username is not None:
        raise argparse.ArgumentTypeError("write mqtt://host:1883 or mqtts://host:8883, without user and password")
    return text


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: more than 0")
    return number


def _terminated(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
