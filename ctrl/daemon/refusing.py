"""What a live process refuses of a config that is good: at its start, and when it reads it again."""

from __future__ import annotations

from ctrl.config import Config
from ctrl.config.schema_roles import NodeTable, NveTable
from ctrl.config.table import Table
from ctrl.daemon.ports import LIVE_KINDS

_HELLO_KEYS = ("replicate", "tunnel", "vnis")
"""What else of a role its managers are told once."""
_NVE_KEYS = ("address", "max_macs", "max_vteps")
_RESTART_KEYS = ("workers", "cpus", "batch", "trains", "clones", "ring_frames")


class StartError(Exception):
    """The daemon cannot start, or a reload cannot be applied: a sentence."""


def refuse_what_is_not_live(config: Config) -> None:
    """Raise StartError for what replay can do and a live process cannot."""
    if not any(port.faces for port in config.ports) and config.manager is None:
        raise StartError("no [[port]] is given, so there is nothing to forward between")
    for port in config.ports:
        if port.faces and port.kind not in LIVE_KINDS:
            raise StartError(
                f'port {port.name}: kind = "{port.kind}" is for replay; '
                f"expected one of {', '.join(sorted(LIVE_KINDS))}"
            )


def refuse_what_takes_a_restart(old: Config, new: Config) -> None:
    """Raise StartError for keys that a running process cannot change."""
    keys = [
        f"dataplane.{key}"
        for key in _RESTART_KEYS
        if getattr(old.dataplane, key) != getattr(new.dataplane, key)
    ]
    keys += [key for key in ("control", "node") if getattr(old, key) != getattr(new, key)]
    keys += _table_keys("manager", old.manager, new.manager) + _table_keys("tls", old.tls, new.tls)
    keys += _nve_keys(old.nve, new.nve)
    keys += _session_keys("nve", old.nve, new.nve)
    keys += _session_keys("device", old.device, new.device)
    keys += _session_keys("replicator", old.replicator, new.replicator)
    if keys:
        raise StartError(f"{', '.join(dict.fromkeys(keys))} changed, which takes a restart")


def _table_keys(name: str, old: Table | None, new: Table | None) -> list[str]:
    if old is None or new is None:
        return [name] if old is not new else []
    return [f"{name}.{key}" for key in type(old).model_fields if getattr(old, key) != getattr(new, key)]


def _nve_keys(old: NveTable | None, new: NveTable | None) -> list[str]:
    """What the table of stations was made by, and what all of them are sent from."""
    if old is None or new is None:
        return ["nve"] if old is not new else []
    return [f"nve.{key}" for key in _NVE_KEYS if getattr(old, key) != getattr(new, key)]


def _session_keys(name: str, old: NodeTable | None, new: NodeTable | None) -> list[str]:
    """What differs of a role's session with managers, where there is one before or after."""
    if not ((old and old.manager) or (new and new.manager)):
        return []
    if old is None or new is None:
        return [name]
    keys = [*NodeTable.model_fields, *_HELLO_KEYS]
    return [f"{name}.{key}" for key in keys if getattr(old, key, None) != getattr(new, key, None)]
