"""The appliance put together: the one place where rooms meet, and where their order of start and end is decided."""

from edge.app.appliance import Appliance
from edge.app.errors import StartError

__all__ = ["Appliance", "StartError"]
