"""Collects every sentence that is said to people: from the code, from the templates of pages, from the core's tables.

A text that is marked and is no literal is an error: it would never be found in a catalogue.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from jinja2 import Environment
from jinja2.ext import extract_from_ast

from edge.dicom import status
from edge.doctor import problems, words
from edge.findings import CODES
from edge.status.lights import TABLE
from edge.translator import parts
from edge.web.public import general

ROOT: Final = Path(__file__).parent.parent.parent
_ONE: Final = frozenset({"_", "N_", "gettext", "say"})
_TWO: Final = frozenset({"ngettext", "say_n"})
_SPEAKERS: Final = frozenset({"edge/phrase.py", "edge/translator.py", "edge/web/language.py"})
"""Modules in which such a call passes on what others say."""


class UnmarkedError(Exception):
    """Something is said that is no literal."""


class Said(msgspec.Struct, frozen=True, order=True):
    """A text that is said in ``file``; ``many`` is its plural where gettext chooses between the two."""

    file: str
    text: str
    many: str = ""


def collect() -> list[Said]:
    """Return everything, by file and in its order there. Raises `UnmarkedError`."""
    found: list[Said] = []
    for path in sorted((ROOT / "edge").rglob("*.py")):
        found += of_code(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
    for path in sorted((ROOT / "edge/web/templates").rglob("*.html")):
        found += of_template(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
    return [one for one in [*found, *of_tables()] if any(c.isalpha() for c in bare(one.text))]


def bare(template: str) -> str:
    """Return ``template`` without its places in braces."""
    return "".join(part.partition("}")[2] if i else part for i, part in enumerate(template.split("{")))


def of_code(file: str, source: str) -> Iterator[Said]:
    """Find what a module says. Raises `UnmarkedError`, ValueError for a template that is none."""
    names = frozenset({"N_"}) if file in _SPEAKERS else _ONE | _TWO
    if "gettext" not in source and "edge.phrase import" not in source:
        names -= {"say"}  # a function of that module's own
    tree = ast.parse(source)
    constants, aliases = dict(_constants(tree)), dict(_aliases(tree))
    # say(one.text) in a page passes on what the core said, and so does language.say
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
        name = aliases.get(_name(call.func), _name(call.func))
        if name not in names or not call.args:
            continue
        if isinstance(call.func, ast.Attribute) and name == "say":
            continue
        texts = [list(_texts(argument, constants)) for argument in call.args[: 2 if name in _TWO else 1]]
        if not all(texts):
            raise UnmarkedError(f"{file}:{call.lineno}: {ast.unparse(call)[:80]}")
        if name == "ngettext":
            yield Said(file, texts[0][0], texts[1][0])
        else:
            for text in [text for each in texts for text in each]:
                if name != "N_" and "%(" not in text:
                    parts(text)
                yield Said(file, text)


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Give texts that a name stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.value.value


def _aliases(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Give names under which a module calls what says something, such as ``say = language.ngettext``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr in _ONE | _TWO:
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.value.attr


def _texts(node: ast.expr, constants: dict[str, str]) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.Name(id=name) if name in constants:
            yield constants[name]
        case ast.IfExp(body=body, orelse=orelse):
            yield from _texts(body, constants)
            yield from _texts(orelse, constants)


def of_template(file: str, source: str) -> Iterator[Said]:
    """Find what a template of a page says."""
    parsed = Environment(trim_blocks=True, lstrip_blocks=True, autoescape=True).parse(source)
    for _, name, text in extract_from_ast(parsed, ("_", "ngettext")):
        texts = [one for one in (text if isinstance(text, tuple) else (text,)) if one is not None]
        if len(texts) != (2 if name == "ngettext" else 1):
            raise UnmarkedError(f"{file}: {name} of {texts}")
        yield Said(file, *texts)


def of_tables() -> Iterator[Said]:
    """Find what the core's tables say."""
    for code in CODES.values():
        yield from _all("edge/findings.py", (code.severity, code.text, code.advice))
        yield from _all("edge/web/public.py", (general(code.name),))
    for row in TABLE:
        yield from _all("edge/status/lights.py", (row.light.color, row.light.pattern, row.light.text))
    yield from _all("edge/dicom/status.py", status.MEANINGS)
    yield from _all("edge/doctor/words.py", (*words.TITLES.values(), *words.TEXTS.values()))
    for problem in problems.PROBLEMS.values():
        yield from _all("edge/doctor/problems.py", (problem.meaning, problem.advice))
    yield from _all("edge/doctor/problems.py", (advice for advice, _ in problems.REJECTIONS.values()))
    yield from _all("edge/doctor/problems.py", map(str, problems.Who))


def _all(file: str, texts: Iterable[str]) -> Iterator[Said]:
    return (Said(file, str(text)) for text in texts)
