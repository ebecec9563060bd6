"""The Native DICOM Model in XML (PS3.19 A.1), as far as answers need it: items of sequences, flat.

Neither document types nor entities are taken, so that nothing can grow nor be fetched; nor is what nests deeper than
an answer does.
"""

from collections.abc import Collection
from typing import Final
from xml.parsers import expat

from edge.phrase import N_

_MOST_DEPTH: Final = 64
_MOST_TEXT: Final = 1024
"""Characters of one value."""
_ATTRIBUTE: Final = "DicomAttribute"
_ITEM: Final = "Item"
_VALUE: Final = "Value"


class NotXmlError(Exception):
    """It cannot be read, or not without danger."""


def items(body: bytes, wanted: Collection[str]) -> list[tuple[str, dict[str, str]]]:
    """Give the tag of each sequence with the ``wanted`` attributes of each of its items, by tag, first values only.

    Raises `NotXmlError`.
    """
    reader = _Reader(wanted)
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(body, True)  # noqa: FBT003 - takes it by position only
    except expat.ExpatError as e:
        raise NotXmlError(expat.ErrorString(e.code)) from None
    except (LookupError, ValueError):
        raise NotXmlError(N_("its encoding is not one that can be read")) from None
    if reader.root != "NativeDicomModel":
        raise NotXmlError(N_("it is another kind of document"))
    return reader.found


def _refuse(*_: object) -> None:
    raise NotXmlError(N_("it declares a document type"))


class _Reader:
    """Follows one document; ``_path`` is each open element, an attribute by its tag."""

    def __init__(self, wanted: Collection[str]) -> None:
        self.root = ""
        self.found: list[tuple[str, dict[str, str]]] = []
        self._wanted = wanted
        self._path: list[str] = []
        self._text: str | None = None

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(" ")[2]
        self.root = self.root or name
        self._path.append(attributes.get("tag", "").upper() if name == _ATTRIBUTE else name)
        if len(self._path) > _MOST_DEPTH:
            raise NotXmlError(N_("it nests too deeply"))
        match self._path:
            case [_, tag, "Item"] if tag != _ITEM:
                self.found.append((tag, {}))
            case [_, _, "Item", attribute, "Value"] if attribute in self._wanted:
                self._text = ""

    def text(self, data: str) -> None:
        if self._text is not None:
            self._text += data[: _MOST_TEXT - len(self._text)]

    def end(self, _name: str) -> None:
        if self._text is not None and self._path[-1] == _VALUE:
            self.found[-1][1].setdefault(self._path[-2], self._text)
            self._text = None
        self._path.pop()
