"""What the documentation says beside what the code does: tables, codes, examples, links."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.cli.main import BAD_USAGE, FAILED, NOT_RUNNING, LazyGroup, main
from edge.configfile import parse
from edge.findings import CODES
from edge.states import MOVES
from edge.store import verdicts

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*-*/README.md")])
OUTCOMES = {"Accepted", "TryLater", "Refused", "Unreachable"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}$(.*?)(?=^#{{1,2}} |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no heading {title!r}"
    return found[2]


def rows(text: str, *head: str) -> list[list[str]]:
    """The cells of the one table with this head."""
    lines = text.splitlines()
    begin = lines.index(f"| {' | '.join(head)} |")
    found = []
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        assert len(cells) == len(head), line
        found.append(cells)
    return found


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def quote(cell: str) -> str:
    (only,) = quoted(cell)
    return only


def prose(page: str) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", page, flags=re.MULTILINE | re.DOTALL)


# ARCHITECTURE.md


def test_layers_are_the_contracts() -> None:
    (contract,) = (
        contract
        for contract in tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    table = rows(section(read("ARCHITECTURE.md"), "Layers"), "layer", "rooms")
    assert [quoted(rooms) for _, rooms in table] == [re.split(r" [|:] ", layer) for layer in contract["layers"]]


def test_every_module_is_named_once_and_exists() -> None:
    table = rows(section(read("ARCHITECTURE.md"), "Modules"), "module", "what it does")
    modules = [
        f"{path.parent.relative_to(ROOT)}/" if path.name == "__init__.py" else str(path.relative_to(ROOT))
        for path in (ROOT / "edge").rglob("*.py")
    ]
    assert sorted(quote(module) for module, _ in table) == sorted(modules)


def test_states_are_the_codes() -> None:
    table = rows(section(read("ARCHITECTURE.md"), "Delivery states"), "state", "meaning", "may go to")
    assert {quote(state): set(quoted(moves)) for state, _, moves in table} == {
        str(state): set(map(str, moves)) for state, moves in MOVES.items()
    }
    assert [quote(state) for state, _, _ in table] == [str(state) for state in MOVES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:edge|tests|scripts|docs)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


# README.md


def test_commands_are_the_groups() -> None:
    assert isinstance(main, LazyGroup)
    table = rows(section(read("README.md"), "Commands"), "command", "does")
    assert [quote(command).split()[1] for command, _ in table] == list(main.modules)
    assert {quote(command).split()[0] for command, _ in table} == {"edge"}


def test_options_that_are_named_exist() -> None:
    for line in re.findall(r"edge ((?:\w+) [^`|\n]*--[^`|\n]*)", prose(read("README.md"))):
        name, *words = line.split()
        command = main.get_command(main.make_context("edge", [name]), name)
        assert command is not None, line
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_exit_codes_are_the_constants() -> None:
    table = rows(section(read("README.md"), "Commands"), "exit code", "means")
    assert [int(code) for code, _ in table] == [0, FAILED, BAD_USAGE, NOT_RUNNING]


# docs/findings.md


def findings() -> dict[str, str]:
    page = section(read("docs/findings.md"), "Findings")
    parts = re.split(r"^### (.+)$", page, flags=re.MULTILINE)
    names = parts[1::2]
    assert len(set(names)) == len(names)
    return dict(zip(names, parts[2::2], strict=True))


def test_every_finding_is_documented_and_no_other() -> None:
    assert list(findings()) == list(CODES)


@pytest.mark.parametrize("code", CODES)
def test_a_finding_says_how_bad_what_and_what_to_do(code: str) -> None:
    _, severity, meaning, *rest = re.split(r"\n\n", findings()[code].rstrip())
    assert severity.strip() == f"Severity: {CODES[code].severity}"
    assert len(meaning) > 20
    assert [part.split("**")[1] for part in rest] == ["What to do:", "Closes:"]


def test_every_reason_of_a_delivery_is_documented_and_no_other() -> None:
    page = section(read("docs/findings.md"), "Reasons of a delivery")
    table = rows(page, "code", "then", "what it means", "what to do")
    documented = [quote(code) for code, *_ in table]
    assert len(set(documented)) == len(documented)
    assert set(documented) == set(reasons())


def reasons() -> Iterator[str]:
    """Every code of an outcome, be it an argument or assigned to ``code``; and those of verdicts."""
    yield from (verdicts.TWIN_UNPROVEN, verdicts.NOT_FOUND, verdicts.UNQUERIABLE)
    for path in (ROOT / "edge" / "forward").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(code)), *_]) if name in OUTCOMES:
                    yield code
                case ast.Assign(targets=[ast.Name(id="code")], value=ast.Constant(value=str(code))):
                    yield code
                case ast.Assign(
                    targets=[ast.Tuple(elts=[ast.Name(id="code"), *_])],
                    value=ast.Tuple(elts=[ast.Constant(value=str(code)), *_]),
                ):
                    yield code


def test_reasons_are_found() -> None:
    assert {"REFUSED_CONNECTION", "NO_ADDRESS", "ASSOCIATION_REJECTED", "CONTEXT_REJECTED", "COPIED"} <= set(reasons())


# every page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_configurations_are_taken(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for indent, block in re.findall(r"^( *)```toml\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        parse(re.sub(rf"^{indent}", "", block, flags=re.MULTILINE))


def test_the_readmes_configuration_says_nothing_that_has_no_effect() -> None:
    blocks = re.findall(r"^ *```toml\n(.*?)^ *```$", read("README.md"), re.MULTILINE | re.DOTALL)
    assert blocks
    loaded = parse("\n".join(blocks))
    assert loaded.notices == ()
    assert len(loaded.config.destination) == 1
    assert loaded.config.mqtt is not None


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link
