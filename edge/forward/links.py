"""The network interfaces of this machine: whether a cable is in, and which addresses they have. Needs no root.

Read from the kernel at every look, in microseconds. Where it does not tell, nothing is known, which is no trouble.
"""

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

SYSFS: Final = Path("/sys/class/net")
_INET6: Final = Path("/proc/net/if_inet6")
_SIOCGIFADDR: Final = 0x8915
"""Of netdevice(7)."""
_IFNAMSIZ: Final = 16
_INNER: Final = (
    *("docker", "br-", "veth", "virbr", "ifb", "dummy", "lo"),
    # those that the kernel makes with a module for tunnels, and that nobody uses
    *("tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"),
)
"""How interfaces are called, or begin to be, that lead to nowhere outside."""
_UP: Final = frozenset({"up", "unknown"})
"""Of operstate; many drivers of modems and tunnels say ``unknown`` all the time."""


class Interface(msgspec.Struct, frozen=True):
    """One interface that may lead to other machines."""

    name: str
    linked: bool
    """Whether it is up and has a carrier."""
    addresses: tuple[str, ...] = ()

    @property
    def usable(self) -> tuple[str, ...]:
        """The addresses that were given to it, without those that it made up (169.254.0.0/16, fe80::/10)."""
        return tuple(a for a in self.addresses if not ipaddress.ip_address(a).is_link_local)


def own_addresses(name: str) -> tuple[str, ...]:
    """Return the first IPv4 address of the interface ``name``, and its IPv6 addresses."""
    return (*_inet(name), *_inet6(name))


def interfaces(
    root: Path = SYSFS, addresses: Callable[[str], tuple[str, ...]] = own_addresses
) -> tuple[Interface, ...] | None:
    """Look at every interface below ``root`` that may lead outside; None where the kernel does not tell."""
    try:
        names = sorted(path.name for path in root.iterdir() if not path.name.startswith(_INNER))
    except OSError:
        return None
    return tuple(Interface(name, _linked(root / name), addresses(name)) for name in names if _leads_on(root / name))


def _leads_on(path: Path) -> bool:
    """Whether it is an interface of its own; a bridge is as good as what is in it."""
    return (path / "operstate").exists() and not (path / "bridge").is_dir()


def _linked(path: Path) -> bool:
    return _word(path / "operstate") in _UP and _word(path / "carrier") == "1"


def _word(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except OSError:  # what is down tells no carrier
        return ""


def _inet(name: str) -> tuple[str, ...]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        request = struct.pack("256s", name.encode()[: _IFNAMSIZ - 1])
        try:
            answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, request)
        except OSError:  # it has none
            return ()
    return (socket.inet_ntoa(answer[20:24]),)


def _inet6(name: str) -> tuple[str, ...]:
    try:
        lines = _INET6.read_text("ascii").splitlines()
    except OSError:
        return ()
    found = (line.split() for line in lines)
    return tuple(str(ipaddress.IPv6Address(int(words[0], 16))) for words in found if words[-1] == name)
