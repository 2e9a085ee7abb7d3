"""What a running gateway takes up of a changed configuration, and what needs a restart.

Decides: of the tenants that are there before and after, the push section and how tokens are
checked, with all their secrets. Leaves to `gateway.core` the taking up. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec import Struct

from gateway.config.sections import Config, Tenant

_TAKEN = ("auth", "push")


class Reload(NamedTuple):
    """The configuration to go on with; what of it is new (`changed`, tenants' names); and the keys
    that differ in the file but stay as they are until a restart (`kept`).
    """

    config: Config
    changed: tuple[str, ...]
    kept: tuple[str, ...]


def plan(running: Config, given: Config) -> Reload:
    """Return what to do about `given`, a configuration that was read while `running` is in use."""
    tenants: dict[str, Tenant] = {}
    kept = [name for name in Config.__struct_fields__ if name != "tenants"]
    kept = [key for name in kept for key in _differing(running, given, name, name)]
    for name, before in running.tenants.items():
        after = given.tenants.get(name)
        if after is None:
            kept.append(f"tenants.{name}")
            tenants[name] = before
            continue
        taken = {part: getattr(after, part) for part in _TAKEN}
        tenants[name] = msgspec.structs.replace(before, **taken)
        for part in Tenant.__struct_fields__:
            if part not in _TAKEN:
                kept += _differing(before, after, part, f"tenants.{name}.{part}")
    kept += [f"tenants.{name}" for name in given.tenants if name not in running.tenants]
    changed = tuple(name for name in tenants if tenants[name] != running.tenants[name])
    return Reload(msgspec.structs.replace(running, tenants=tenants), changed, tuple(kept))


def _differing(before: Struct, after: Struct, name: str, key: str) -> list[str]:
    """The settings below `name` that differ between two sections."""
    old, new = getattr(before, name), getattr(after, name)
    if old == new:
        return []
    if isinstance(old, Struct) and isinstance(new, Struct):
        parts = old.__struct_fields__
        return [found for part in parts for found in _differing(old, new, part, f"{key}.{part}")]
    return [key]
