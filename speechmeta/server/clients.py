"""Which requests are of one client, so that none gets more than its share of the server."""

from __future__ import annotations

import ipaddress


def client_of(owner: str, host: str | None) -> str:
    """A name for whoever asks: the owner of its key, else its address.

    Behind a proxy all have one address, and only keys tell them apart. An IPv6 address counts by
    its first 64 bits, as the rest is its owner's to choose.

    Args:
        owner: as `Keys.owner` names it.
        host: its address; None where it is not known.
    """
    if owner:
        return f"key {owner}"
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return host or ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), 64), strict=False).network_address)
    return str(address)


__all__ = ["client_of"]
