"""What is wrong with what lies on the card, each with file, line and key as `edge check` says it."""

import msgspec

from edge.configfile import Problem


class Fault(msgspec.Struct, frozen=True):
    """One thing wrong, in the file of that name."""

    file: str
    problem: Problem

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


class FaultsError(Exception):
    """Nothing of it is taken. Its text has one line for each fault, of which there is at least one."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults
