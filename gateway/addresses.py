"""Whose connection it is, where proxies stand between.

A proxy adds to `X-Forwarded-For` the address from which it was connected to. What stands left of
that came with the request and may be made up: so the list is read from its end, for as long as
whoever added an entry is trusted. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from push.guard import Network

SITE = 64  # bits of an IPv6 address that one client cannot choose


def client_of(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The client to whom a connection from `peer` counts; `forwarded` are the header's values.

    Of an IPv6 client it is the network that is theirs alone: they have all of its addresses.
    """
    client = _address(peer)
    hops = [hop for value in forwarded for hop in value.split(",")]
    while hops and client is not None and any(client in network for network in trusted):
        further = _address(hops.pop())
        if further is None:
            break
        client = further
    if isinstance(client, IPv6Address):
        return str(ip_network((client, SITE), strict=False))
    return peer if client is None else str(client)


@lru_cache(maxsize=1024)  # a proxy is the peer of everybody, and reading one costs a connect 3 %
def _address(text: str) -> IPv4Address | IPv6Address | None:
    """With a port or without one, as proxies write it; an IPv4 address within an IPv6 one is it."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
