"""`scripts/schemas`: writes the JSON Schema of every payload to docs/mqtt, or compares what stands there."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edge.messages import schemas

FOLDER: Final = Path(__file__).parents[2] / "docs" / "mqtt"
_SUFFIX: Final = ".schema.json"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def documents() -> dict[str, str]:
    """Return the text of every schema, by the name of its file."""
    return {
        topic.replace("/", "-") + _SUFFIX: json.dumps({"$schema": _DIALECT, **schema}, indent=2) + "\n"
        for topic, schema in schemas().items()
    }


def differing(folder: Path) -> list[str]:
    """Return the names of files that are missing from ``folder``, not as the code says, or too many."""
    wanted = documents()
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob(f"*{_SUFFIX}")}
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))


def write(folder: Path) -> None:
    """Make ``folder`` hold the schemas that the code says, and no other."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = documents()
    for path in folder.glob(f"*{_SUFFIX}"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """Write or compare: 0 they are the same now, 1 they differ."""
    parser = argparse.ArgumentParser(
        prog="scripts/schemas", description="Writes the JSON Schemas of the MQTT payloads."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where a file differs from the code")
    if not parser.parse_args(arguments).check:
        write(folder)
        return 0
    found = differing(folder)
    for name in found:
        print(f"{name} is not as edge/messages.py says; run scripts/schemas", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
