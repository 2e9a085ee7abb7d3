"""Which addresses a call may go to: the public internet, and what the tenant's operator allowed.

Theory of operation. A customer backend's name is looked up by somebody else's DNS, which may answer
with an address inside our own network, and differently the next time (rebinding). So a name decides
nothing here, and neither does a lookup: what is judged is the address of the very socket that is
about to connect, for each address that is tried, `socket_of` being what opens it. A literal address
in the URL, in whatever spelling, comes by here too.

Decides: whether an address may be connected to, and why not. The ranges are those of the IANA
registries of special addresses for IPv4 and IPv6, the translated ones that reach IPv4 through IPv6
(mapped, compatible, NAT64, 6to4, Teredo) included, and the addresses at which clouds serve
credentials. `ipaddress.is_global` is not asked: it takes 64:ff9b::/96, 2002::/16, fec0::/10 and
multicast for global. Leaves to `push.caller` what a refusal does to a call.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final
from urllib.parse import urlsplit

Network = IPv4Network | IPv6Network


class Refusal(StrEnum):
    """Why an address may not be connected to. These words are in logs."""

    METADATA = "metadata"
    UNSPECIFIED = "unspecified"
    LOOPBACK = "loopback"
    PRIVATE = "private"
    LINK_LOCAL = "link_local"
    SITE_LOCAL = "site_local"
    SHARED = "shared"  # carrier-grade NAT
    DOCUMENTATION = "documentation"
    BENCHMARKING = "benchmarking"
    MULTICAST = "multicast"
    MAPPED = "ipv4_mapped"
    COMPATIBLE = "ipv4_compatible"
    NAT64 = "nat64"
    SIX_TO_FOUR = "6to4"
    TEREDO = "teredo"
    RESERVED = "reserved"
    NO_ADDRESS = "no_address"


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


_NEVER: Final = (
    # Instance metadata: AWS, Azure, GCP and others; ECS; EKS; Alibaba; Oracle; Azure's wire server.
    (
        Refusal.METADATA,
        _networks(
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
        ),
    ),
    (Refusal.UNSPECIFIED, _networks("0.0.0.0/8", "::")),
    (Refusal.MULTICAST, _networks("224.0.0.0/4", "ff00::/8")),
)
"""No allowlist opens these: no backend is there."""

_REFUSED: Final = (
    (Refusal.LOOPBACK, _networks("127.0.0.0/8", "::1")),
    (Refusal.PRIVATE, _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")),
    (Refusal.LINK_LOCAL, _networks("169.254.0.0/16", "fe80::/10")),
    (Refusal.SITE_LOCAL, _networks("fec0::/10")),
    (Refusal.SHARED, _networks("100.64.0.0/10")),
    (
        Refusal.DOCUMENTATION,
        _networks(
            "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"
        ),
    ),
    (Refusal.BENCHMARKING, _networks("198.18.0.0/15", "2001:2::/48")),
    (Refusal.MAPPED, _networks("::ffff:0:0/96", "::ffff:0:0:0/96")),
    (Refusal.COMPATIBLE, _networks("::/96")),
    (Refusal.NAT64, _networks("64:ff9b::/96", "64:ff9b:1::/48")),
    (Refusal.SIX_TO_FOUR, _networks("2002::/16", "192.88.99.0/24")),
    (Refusal.TEREDO, _networks("2001::/32")),
    (Refusal.RESERVED, _networks("192.0.0.0/24", "240.0.0.0/4", "2001::/23")),
)
_TRANSLATED: Final = tuple(
    network
    for why, networks in _REFUSED
    if why in (Refusal.MAPPED, Refusal.NAT64)
    for network in networks
)
"""Reach the IPv4 address in their last 32 bits (RFC 6052, RFC 8215, RFC 4291)."""
_UNICAST: Final = IPv6Network("2000::/3")  # the only part of IPv6 that is given out to anybody


def is_never_called(network: Network) -> bool:
    """Tell whether all of `network` is what no allowlist opens."""
    return any(
        network.version == never.version and network.subnet_of(never)  # type: ignore[arg-type]
        for _, networks in _NEVER
        for never in networks
    )


def refusal(address: str, allowed: Iterable[Network] = ()) -> Refusal | None:
    """Return why `address` may not be connected to, or None if it may.

    `address` as a socket has it, with or without an IPv6 zone. `allowed` are the networks inside
    that the tenant's backend may be in. An IPv4 network in it opens no translated form of itself,
    and a translated one opens only what may be called as IPv4.
    """
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return Refusal.NO_ADDRESS
    for why, networks in _NEVER:
        if any(ip in network for network in networks):
            return why
    if any(ip in network for network in allowed):
        if not any(ip in network for network in _TRANSLATED):
            return None
        return refusal(str(IPv4Address(int(ip) & 0xFFFF_FFFF)), allowed)
    for why, networks in _REFUSED:
        if any(ip in network for network in networks):
            return why
    return Refusal.RESERVED if ip.version == 6 and ip not in _UNICAST else None


LOOPBACK: Final = frozenset(_networks("127.0.0.0/8", "::1"))


def meant_by(url: str) -> frozenset[Network]:
    """Return what `url` itself allows: loopback, if that is what it says in so many words.

    A configuration that names `localhost`, `127.0.0.1` or `[::1]` means this very machine. Any
    other name, whatever it resolves to, and any other address means nothing.
    """
    host = urlsplit(url).hostname or ""
    named = host == "localhost" or refusal(host) is Refusal.LOOPBACK
    return LOOPBACK if named else frozenset()


class AddressRefused(OSError):
    """A socket was asked for that may not be opened. `address` and `why` say which.

    An OSError, so that a name's other addresses are tried.
    """

    def __init__(self, address: str, why: Refusal) -> None:
        super().__init__(f"{address} may not be called: {why.value}")
        self.address = address
        self.why = why


AddrInfo = tuple[Any, Any, int, str, tuple[Any, ...]]  # as of `socket.getaddrinfo`


def socket_of(info: AddrInfo, allowed: Iterable[Network]) -> socket.socket:
    """Open the socket for one resolved address, unconnected. Raises `AddressRefused`."""
    family, kind, protocol, _, address = info
    why = refusal(str(address[0]), allowed)
    if why is not None:
        raise AddressRefused(str(address[0]), why)
    return socket.socket(family, kind, protocol)
