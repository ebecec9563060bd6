"""Sentences for people: written whole, in English, with named places, so that a face can say them in another language.

What is said stays plain text, also in the store, on the wire and in the log: nobody on the way needs to know that it is
a sentence. `edge.translator` finds the template of a text again. Each template must be a literal, for it is collected
into the catalogue (`scripts/catalogue`).
"""

from typing import Final


def say(template: str, /, **values: object) -> str:
    """Fill in ``{name}`` of ``template``. A name in `edge.translator.NESTED` may stand for a sentence of its own.

    Raises KeyError for a place without a value.
    """
    return template.format(**values)


def say_n(one: str, many: str, n: int, /, **values: object) -> str:
    """Fill in ``one`` for a single thing, else ``many``, both of which may name ``{n}``."""
    return (one if n == 1 else many).format(n=n, **values)


def N_(text: str) -> str:  # noqa: N802 - the name that gettext's tools look for
    """Mark a text that is said elsewhere."""
    return text


SYSTEM: Final = (
    N_("Connection refused"),
    N_("Connection reset by peer"),
    N_("Device or resource busy"),
    N_("Host is down"),
    N_("Input/output error"),
    N_("Is a directory"),
    N_("Network is unreachable"),
    N_("No route to host"),
    N_("No space left on device"),
    N_("No such file or directory"),
    N_("Not a directory"),
    N_("Operation not permitted"),
    N_("Permission denied"),
    N_("Address already in use"),
    N_("Cannot assign requested address"),
    N_("Disk quota exceeded"),
    N_("Read-only file system"),
    N_("Stale file handle"),
    N_("Too many open files"),
    N_("Transport endpoint is not connected"),
)
"""What the operating system says of its errors, as far as people meet it (strerror(3))."""
