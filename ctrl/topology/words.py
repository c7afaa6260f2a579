"""How keys read, in rows and in the log."""

from __future__ import annotations

from ipaddress import ip_address

from ctrl.topology.entry import ANY, AWARE, Key, is_tenant, split_tenant


def key_words(key: Key) -> tuple[str, int | None, str | None]:
    """Name a key's group, and of tenants their VNI and the group that they want, any or aware."""
    if not is_tenant(key):
        return str(ip_address(key)), None, None
    outer, vni, inner = split_tenant(key)
    tenants = {ANY: "any", AWARE: "aware"}.get(inner) or str(ip_address(inner))
    return str(ip_address(outer)), vni, tenants


def key_line(key: Key) -> str:
    """Name a key in a line of the log: key=value."""
    group, vni, tenants = key_words(key)
    return f"group={group}" if tenants is None else f"group={group} vni={vni} tenants={tenants}"


def is_shown(key: Key) -> bool:
    """Say whether it is of use to people: not who reads what tenants say."""
    return not is_tenant(key) or split_tenant(key).inner != AWARE
