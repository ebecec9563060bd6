"""Templates to HTML, and static files by their content.

Everything is escaped, always; a name that a template does not know is an error, not an empty place. Static files are
read once and served under an address that has a digest of their content, so that browsers may keep them for ever.
"""

import functools
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edge.web import words
from edge.web.language import Language

_HERE: Final = Path(__file__).parent
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_DIGITS: Final = 12
_IMPORT: Final = re.compile(rb'(from\s+"\./)([\w-]+\.js)(")')
"""How our modules import each other."""


class StaticFile(msgspec.Struct, frozen=True):
    """One file as it is served."""

    body: bytes
    type: str
    digest: str


class Static:
    """The files below ``folder``, in memory."""

    def __init__(self, folder: Path = _HERE / "static") -> None:
        self._files = {
            path.name: _load(path) for path in sorted(folder.iterdir()) if path.suffix in _TYPES and path.is_file()
        }
        for name, file in list(self._files.items()):
            # a module must ask for the others by their digests too, or an old one would be kept beside new ones
            body = _IMPORT.sub(lambda match: match[1] + match[2] + self._query(match[2]) + match[3], file.body)
            self._files[name] = msgspec.structs.replace(file, body=body)

    def find(self, name: str) -> StaticFile | None:
        """Return the file ``name``."""
        return self._files.get(name)

    def url(self, name: str) -> str:
        """Return the address of the file ``name``, which must be there."""
        return f"/static/{name}?{self._files[name].digest}"

    def _query(self, name: bytes) -> bytes:
        return b"?" + self._files[name.decode()].digest.encode()


def _load(path: Path) -> StaticFile:
    body = path.read_bytes()
    return StaticFile(body, _TYPES[path.suffix], hashlib.sha256(body).hexdigest()[:_DIGITS])


class Renderer:
    """Renders templates of ``edge/web/templates`` in any language."""

    def __init__(self, static: Static) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals |= {"static": static.url}
        self._environment.filters |= {"count": words.count, "size": words.size, "rate": words.rate}

    def warm(self) -> None:
        """Compile every template, so that the first reader does not wait for it."""
        for name in self._environment.list_templates(["html"]):
            self._environment.get_template(name)

    def render(self, template: str, language: Language, now: float, values: Mapping[str, Any]) -> str:
        """Render; ``now`` is wall time. A template has what `Language` says as ``_``, ``ngettext`` and ``say``."""
        own = {
            "language": language,
            "_": language.gettext,
            "ngettext": language.ngettext,
            "say": language.say,
            "span": functools.partial(words.span, language=language),
            "moment": functools.partial(words.moment, now=now),
        }
        return self._environment.get_template(template).render(own | dict(values))
