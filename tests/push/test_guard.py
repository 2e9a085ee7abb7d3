"""Which addresses may be called, and the word for why not."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from push.guard import (
    LOOPBACK,
    AddressRefused,
    Refusal,
    is_never_called,
    meant_by,
    refusal,
    socket_of,
)

INSIDE = (ip_network("10.20.0.0/16"), ip_network("fd12:3456::/32"))


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("fc00::1", "private"),
        ("fdff::1", "private"),
        ("169.254.0.1", "link_local"),
        ("fe80::1", "link_local"),
        ("fe80::1%eth0", "link_local"),
        ("fec0::1", "site_local"),
        ("100.64.0.1", "shared"),
        ("100.127.255.255", "shared"),
        ("0.0.0.0", "unspecified"),  # noqa: S104
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("192.0.2.1", "documentation"),
        ("198.51.100.1", "documentation"),
        ("203.0.113.1", "documentation"),
        ("2001:db8::1", "documentation"),
        ("3fff::1", "documentation"),
        ("198.18.0.1", "benchmarking"),
        ("198.19.255.255", "benchmarking"),
        ("2001:2::1", "benchmarking"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("ff02::1", "multicast"),
        ("ff0e::1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("192.0.0.8", "reserved"),
        ("100::1", "reserved"),
        ("5f00::1", "reserved"),
        ("4000::1", "reserved"),
        ("2001:10::1", "reserved"),
        ("::ffff:127.0.0.1", "ipv4_mapped"),
        ("::ffff:8.8.8.8", "ipv4_mapped"),
        ("::ffff:0:10.0.0.1", "ipv4_mapped"),
        ("::127.0.0.1", "ipv4_compatible"),
        ("64:ff9b::7f00:1", "nat64"),
        ("64:ff9b::8.8.8.8", "nat64"),
        ("64:ff9b:1::a00:1", "nat64"),
        ("2002:7f00:1::", "6to4"),
        ("192.88.99.1", "6to4"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "teredo"),
        ("169.254.169.254", "metadata"),
        ("169.254.170.2", "metadata"),
        ("169.254.170.23", "metadata"),
        ("100.100.100.200", "metadata"),
        ("192.0.0.192", "metadata"),
        ("168.63.129.16", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("fd00:ec2::23", "metadata"),
        ("fd20:ce::254", "metadata"),
        ("127.1", "no_address"),
        ("push.acme.example", "no_address"),
        ("", "no_address"),
    ],
)
def test_a_hostile_address_is_refused_with_its_reason(address: str, why: str) -> None:
    assert refusal(address) == why


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.0.0.1",
        "172.15.255.255",
        "172.32.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "223.255.255.255",
        "2001:4860:4860::8888",
        "2a00:1450:4001::200e",
        "2600::",
    ],
)
def test_an_address_of_the_internet_may_be_called(address: str) -> None:
    assert refusal(address) is None


@given(st.ip_addresses())
def test_nothing_may_be_called_that_the_standard_library_takes_for_special(
    ip: IPv4Address | IPv6Address,
) -> None:
    special = not ip.is_global or ip.is_multicast or ip.is_reserved or ip.is_link_local
    assert refusal(str(ip)) is not None or not special


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_may_be_called_in_an_ipv6_disguise(ip: IPv4Address) -> None:
    n = int(ip)
    disguises = [
        n,
        0xFFFF << 32 | n,
        0xFFFF << 48 | n,
        0x64FF9B << 96 | n,
        0x64FF9B0001 << 80 | n,
        0x2002 << 112 | n << 80,
        0x20010000 << 96 | (n ^ 0xFFFFFFFF),
    ]
    assert None not in [refusal(str(IPv6Address(one))) for one in disguises]


@pytest.mark.parametrize("prefix", ["64:ff9b::", "64:ff9b:1::", "::ffff:"])
def test_an_allowed_translation_opens_only_what_may_be_called_as_ipv4(prefix: str) -> None:
    allowed = [ip_network(f"{prefix}0.0.0.0/96")]
    assert refusal(f"{prefix}8.8.8.8", allowed) is None
    assert refusal(f"{prefix}169.254.169.254", allowed) is Refusal.METADATA
    assert refusal(f"{prefix}127.0.0.1", allowed) is Refusal.LOOPBACK
    assert refusal(f"{prefix}10.20.30.40", allowed) is Refusal.PRIVATE
    assert refusal(f"{prefix}10.20.30.40", [*allowed, *INSIDE]) is None
    neighbour = ip_network("10.20.30.40/32")
    assert refusal(f"{prefix}10.20.30.41", [*allowed, neighbour]) is Refusal.PRIVATE


def test_the_allowlist_lets_its_networks_through_and_nothing_else() -> None:
    assert refusal("10.20.30.40", INSIDE) is None
    assert refusal("fd12:3456::1", INSIDE) is None
    assert refusal("10.21.0.1", INSIDE) is Refusal.PRIVATE
    assert refusal("::ffff:10.20.30.40", INSIDE) is Refusal.MAPPED
    assert refusal("64:ff9b::10.20.30.40", INSIDE) is Refusal.NAT64


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("169.254.169.254", "169.254.0.0/16"),
        ("100.100.100.200", "100.64.0.0/10"),
        ("fd00:ec2::254", "fc00::/7"),
        ("0.0.0.0", "0.0.0.0/8"),  # noqa: S104
        ("224.0.0.1", "224.0.0.0/4"),
    ],
)
def test_no_allowlist_opens_what_no_backend_can_be_at(address: str, network: str) -> None:
    assert refusal(address, (ip_network(network),)) is not None


@pytest.mark.parametrize(
    "url", ["http://localhost:8090/ring", "http://127.0.0.1/", "https://127.9.9.9/", "http://[::1]"]
)
def test_an_endpoint_that_says_loopback_means_loopback(url: str) -> None:
    assert meant_by(url) == LOOPBACK


@pytest.mark.parametrize(
    "url",
    [
        "https://push.acme.example/",
        "https://10.0.0.1/",
        "https://localhost.acme.example/",
        "https://[::ffff:127.0.0.1]/",
        "https://127.1/",
        "https://2130706433/",
        "https://acme.example/localhost",
        "localhost",
    ],
)
def test_no_other_endpoint_means_anything(url: str) -> None:
    assert meant_by(url) == frozenset()


def test_a_socket_is_opened_for_an_address_that_may_be_called() -> None:
    info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 443))
    with socket_of(info, LOOPBACK) as opened:
        assert (opened.family, opened.type) == (socket.AF_INET, socket.SOCK_STREAM)


def test_no_socket_is_opened_for_an_address_that_may_not_be_called() -> None:
    info = (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("fe80::1", 443, 0, 2))
    with pytest.raises(AddressRefused, match="fe80::1 may not be called: link_local") as caught:
        socket_of(info, ())
    assert (caught.value.address, caught.value.why) == ("fe80::1", Refusal.LINK_LOCAL)


def test_every_word_for_a_refusal_is_given_for_some_address() -> None:
    samples = ["169.254.169.254", "::", "::1", "10.0.0.1", "fe80::1", "fec0::1", "100.64.0.1"]
    samples += ["192.0.2.1", "198.18.0.1", "ff02::1", "::ffff:1.1.1.1", "::1.1.1.1"]
    samples += ["64:ff9b::1", "2002::1", "2001::1", "240.0.0.1", "a name"]
    assert {refusal(sample) for sample in samples} == set(Refusal)
    assert ip_address("64:ff9b::1").is_global  # why nobody asks the standard library alone


@pytest.mark.parametrize(
    ("network", "never"),
    [
        ("169.254.169.254/32", True),
        ("224.0.0.0/8", True),
        ("ff02::/16", True),
        ("169.254.0.0/16", False),  # more than what is never called is in it
        ("10.0.0.0/8", False),
        ("fd12::/16", False),
    ],
)
def test_a_network_may_be_one_that_no_allowlist_opens(network: str, *, never: bool) -> None:
    assert is_never_called(ip_network(network)) is never
