"""Tables: on the terminal, and the same in Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from scripts.benchmarks.forward import HOW
from scripts.benchmarks.plan import LIMITS, Cell, Peer, Run, Work
from scripts.benchmarks.receive import SYNCS
from scripts.benchmarks.summary import Goal, Results, goals, over

_NUMBERS: Final = frozenset({"objects", "objects/s", "min..max", "MB/s", "edge/peer", "MB over idle"})
_WHOLE: Final = 10.0
"""From here on a number is told without decimals."""


@dataclass(frozen=True)
class Sheet:
    """A table in words."""

    title: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Report:
    """All there is to say of one benchmark."""

    results: Results
    peers: Sequence[Peer]
    machine: Mapping[str, str]
    remarks: Sequence[str]

    def sheets(self) -> Iterator[Sheet]:
        """Results by kind and associations, the goals, the machine."""
        groups: dict[tuple[str, int], list[Cell]] = {}
        for run in self.results.runs:
            group = groups.setdefault((run.cell.kind, run.cell.associations), [])
            if run.cell not in group:
                group.append(run.cell)
        for group in groups.values():
            yield self._sheet(group)
        rows = [(goal.text, goal.measured or "-", _verdict(goal)) for goal in goals(self.results)]
        yield Sheet("Goals", ("goal", "measured", ""), rows)
        yield Sheet("Measured on", ("", ""), list(self.machine.items()))

    def document(self) -> dict[str, Any]:
        """Give everything, every run included, as JSON takes it."""
        return {
            "work": self.results.work,
            "machine": dict(self.machine),
            "remarks": list(self.remarks),
            "goals": [asdict(goal) for goal in goals(self.results)],
            "runs": [{**asdict(run), "rate": run.rate} for run in self.results.runs],
        }

    def _sheet(self, group: Sequence[Cell]) -> Sheet:
        receiving = self.results.work is Work.RECEIVE
        first = group[0]
        heads = (
            *("sender's Nagle" if receiving else "receiver's Nagle", "receiver" if receiving else "forwarder"),
            *("objects", "objects/s", "min..max", "MB/s", "edge/peer", "MB over idle"),
            "synced when it answers" if receiving else "how",
        )
        rows = []
        for cell in group:
            for peer in self.peers:
                runs = self.results.of(peer, cell)
                if runs:
                    rows.append(self._row(peer, cell, runs, receiving=receiving))
        return Sheet(f"{self.results.work.capitalize()} {first.kind.label}, {over(first.associations)}", heads, rows)

    def _row(self, peer: Peer, cell: Cell, runs: Sequence[Run], *, receiving: bool) -> tuple[str, ...]:
        rates = [run.rate for run in runs]
        ratio = None if peer in (Peer.EDGE, *LIMITS) else self.results.ratio(peer, cell)
        name = "dcmsend" if peer is Peer.DCMTK and not receiving else str(peer)
        return (
            "on" if cell.nagle else "off",
            name,
            str(runs[0].objects),
            _short(median(rates)),
            f"{_short(min(rates))}..{_short(max(rates))}",
            _short(median(run.bandwidth for run in runs) / 1e6),
            "" if ratio is None else f"{ratio:.2f}",
            f"{median(run.grown for run in runs) / 1e6:.1f}",
            (SYNCS if receiving else HOW)[peer],
        )


def show(report: Report, console: Console) -> None:
    """Print it."""
    for sheet in report.sheets():
        table = Table(title=sheet.title, title_justify="left", title_style="bold", show_header=any(sheet.heads))
        for head in sheet.heads:
            table.add_column(head, justify="right" if head in _NUMBERS else "left", overflow="fold")
        previous = ""
        for row in sheet.rows:
            if sheet.heads[0].endswith("Nagle") and previous and row[0] != previous:
                table.add_section()
            previous = row[0]
            table.add_row(*row)
        console.print(table)
        console.print()
    for remark in report.remarks:
        console.print(remark)


def markdown(report: Report) -> str:
    """Write it to be pasted into docs/benchmarks.md."""
    lines: list[str] = []
    for sheet in report.sheets():
        rules = ["---:" if head in _NUMBERS else "---" for head in sheet.heads]
        lines += [f"### {sheet.title}", "", _line(sheet.heads), _line(rules), *map(_line, sheet.rows), ""]
    lines += [f"- {remark}" for remark in report.remarks]
    return "\n".join(lines).rstrip() + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= _WHOLE else f"{number:.2f}"


def _verdict(goal: Goal) -> str:
    if goal.met is None:
        return "not measured"
    return "met" if goal.met else "NOT MET"
