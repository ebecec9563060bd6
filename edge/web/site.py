"""What all pages share: the box, who is logged in, how things are rendered, and what is on the screens."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from edge.web.box import Box
from edge.web.gate import Gate
from edge.web.glimpse import Glimpse
from edge.web.language import Languages
from edge.web.page import Page
from edge.web.render import Renderer, Static
from edge.web.screens import Screens
from edge.web.secret import Secrets
from edge.web.sessions import Sessions


class Site:
    """The dashboard of one box."""

    def __init__(self, box: Box, pages: Sequence[Page]) -> None:
        self.box = box
        self.pages = tuple(pages)
        self.static = Static()
        self.renderer = Renderer(self.static)
        self.languages = Languages(box.config.device.language)
        self.sessions = Sessions(box.clock.monotonic)
        self.gate = Gate(Secrets(box.identity), box.clock)
        self.glimpse = Glimpse(box.snapshot, box.clock)
        self.screens = Screens(box, self.renderer, self.glimpse)
        self._key = secrets.token_bytes(32)

    def token(self, visitor: str) -> str:
        """What a form must bring of a browser that is not logged in and calls itself ``visitor``."""
        return hmac.new(self._key, visitor.encode(), hashlib.sha256).hexdigest()
