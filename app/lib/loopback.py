"""Addresses that only programs on this machine can reach."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether `host` is `localhost` or a loopback address, such as 127.0.0.1, ::1 or ::ffff:127.0.0.1."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
