"""The connection to the broker: made again and again, bounded in all that a broker can do to it.

The one place that knows paho. It connects with a fresh will each time, publishes and hears; what is said is decided by
who uses it.
"""

from edge.mqtt.broker import Broker
from edge.mqtt.inbox import Message
from edge.mqtt.problem import LostError, Problem
from edge.mqtt.report import Will
from edge.mqtt.session import Session
from edge.mqtt.settings import Patience, Settings, settings

__all__ = ["Broker", "LostError", "Message", "Patience", "Problem", "Session", "Settings", "Will", "settings"]
