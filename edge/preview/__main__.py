"""The worker: ``python -m edge.preview``. Answers one request after another on its standard streams, then ends.

It opens the one file that it is told, and only reads it. A file can make it slow, large or dead; that costs the
appliance one preview. It ends with its input.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import BinaryIO, Final

from edge.preview import limits
from edge.preview.answer import MOST_BYTES, PREFIX, REQUEST, Answer, NoPicture, Reason, encode

_OUTPUT: Final = 1


def main() -> None:
    """Work until the input ends. Raises OSError where this process cannot be confined."""
    answers = _take_output()
    limits.step_back()
    warnings.simplefilter("ignore")  # pydicom has much to say about the files of this world
    from edge.preview.render import render  # noqa: PLC0415 - it takes a second, which others have first

    limits.confine()
    _say(answers, PREFIX.pack(0))
    questions = sys.stdin.buffer
    while (head := questions.read(REQUEST.size)) and len(head) == REQUEST.size:
        side, length = REQUEST.unpack(head)
        path = Path(os.fsdecode(questions.read(length)))
        limits.begin_request()
        answer: Answer
        try:
            file: BinaryIO
            with path.open("rb") as file:
                answer = render(file, side)
        except OSError:
            answer = NoPicture(Reason.GONE)
        said = encode(answer)
        _say(answers, said if len(said) <= MOST_BYTES else encode(NoPicture(Reason.TOO_LARGE)))


def _take_output() -> int:
    """Keep the standard output for answers: whatever a library prints goes nowhere."""
    answers = os.dup(_OUTPUT)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _OUTPUT)
    os.close(nowhere)
    return answers


def _say(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


if __name__ == "__main__":
    main()
