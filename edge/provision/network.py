"""The network: whether its addresses belong together, and how systemd-networkd and chrony read it. Pure."""

import ipaddress
from collections.abc import Callable

from edge.provision.profile import Network

_HEAD = "# Written by edge provision; what is changed here is lost the next time.\n"


def networkd(network: Network) -> str:
    """Return the text of a .network file (systemd.network(5))."""
    # Kind= leaves out bridges and tunnels, which have Type=ether too
    match = f"Name={network.interface}" if network.interface else "Type=ether\nKind=!*"
    # a start waits for no cable
    parts = [f"{_HEAD}[Match]\n{match}\n", "[Link]\nRequiredForOnline=no\n"]
    versions = {ipaddress.ip_interface(one).version for one in network.address}
    lines = [f"Address={one}" for one in network.address]
    lines += [f"Gateway={one}" for one in network.gateway]
    lines += [f"DNS={one}" for one in network.dns]
    if network.address:
        lines += ["DHCP=no", f"IPv6AcceptRA={'no' if 6 in versions else 'yes'}"]  # noqa: PLR2004 - of IP
    else:
        lines.append("DHCP=yes")
    # reachable by a cable alone and by its name, as without this file
    lines += ["LinkLocalAddressing=yes", "MulticastDNS=yes"]
    parts.append("[Network]\n" + "\n".join(lines) + "\n")
    dns = "UseDNS=no\n" if network.dns else ""
    if not network.address:
        # a reservation is made for the address on the label of the hardware, and the name is ours
        parts.append(f"[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\nUseNTP=yes\nUseDomains=yes\n{dns}")
        parts.append(f"[DHCPv6]\nUseHostname=no\n{dns}")
    if dns and 6 not in versions:  # noqa: PLR2004 - of IP
        parts.append(f"[IPv6AcceptRA]\n{dns}")
    return "\n".join(parts)


def chrony(network: Network) -> str:
    """Return the text of a .sources file (chrony.conf(5)); empty where none are given."""
    return "".join(f"server {one} iburst\n" for one in network.ntp)


def judge_network(network: Network, wrong: Callable[[str, str], None], notes: list[str]) -> None:
    """Tell ``wrong`` of addresses that do not belong together, by key and text, and add to ``notes``."""
    interfaces = [ipaddress.ip_interface(one) for one in network.address]
    gateways = [ipaddress.ip_address(one) for one in network.gateway]
    for key, found in (("address", interfaces), ("gateway", gateways)):
        if len({one.version for one in found}) < len(found):
            wrong(f"network.{key}", "give one for IPv4 and one for IPv6 at the most")
    if gateways and not interfaces:
        wrong("network.gateway", "it does nothing without address: by DHCP the network says it")
        return
    for gateway in gateways:
        own = [one for one in interfaces if one.version == gateway.version]
        near = gateway.version == 6 and gateway.is_link_local  # noqa: PLR2004 - of IP
        if any(gateway == one.ip for one in own):
            wrong("network.gateway", f'"{gateway}" is the address of the box itself')
        elif not near and not any(gateway in one.network for one in own):
            networks = ", ".join(str(one.network) for one in interfaces)
            wrong("network.gateway", f'"{gateway}" is not in the network of the address, {networks}')
    if interfaces and not gateways:
        notes.append("network: without gateway nothing beyond the own network is reached")
    if interfaces and not network.dns:
        notes.append("network: without dns no name is found, only addresses")


def described(network: Network) -> str:
    """Say for people how the box gets its address."""
    if not network.address:
        return "by DHCP"
    gateway = f", gateway {' and '.join(network.gateway)}" if network.gateway else ""
    return " and ".join(network.address) + gateway
