"""Why an exchange with a server came to nothing. No text here holds anything of a secret."""


class WebError(Exception):
    """There is no answer. The text completes a sentence that begins with the server's name."""


class UnreachedError(WebError):
    """There is no connection. ``why`` is what the system or TLS said, None where it took long."""

    def __init__(self, why: Exception | None) -> None:
        super().__init__("it cannot be reached")
        self.why = why


class SilentError(WebError):
    """It did not go on within the time."""


class LostError(WebError):
    """It closed the connection, before or in the middle of its answer."""


class GarbledError(WebError):
    """What came is not HTTP as it should be."""


class TooLongError(WebError):
    """Its answer is longer than any that was asked for."""


class RedirectError(WebError):
    """It sends us elsewhere, where nothing of ours goes."""


class LoginError(WebError):
    """There is nothing to log in with: a file that cannot be used, or a server that gives out no token.

    ``where`` is the name of that server and ``why`` what the system or TLS said, where it cannot be reached.
    """

    def __init__(self, text: str, where: str = "", why: Exception | None = None) -> None:
        super().__init__(text)
        self.where = where
        self.why = why
