"""Every setting as a list, and how each is written: as a dotted key, and as a variable.

Decides: the names of a setting, in a file, in the environment and in an error. Leaves to others:
which there are (`gateway.config.sections`), and what was written (`gateway.config.environment`,
`gateway.config.reading`).

A variable is `RINGBACK_` and the key's path in capitals, with two underscores between levels:
`RINGBACK_SERVER__CHAT`, `RINGBACK_TENANTS__ACME__PUSH__ENDPOINT`. A setting marked *sourced*
(secrets and key material) can also be given as `<name>_file` (a file holding it) or `<name>_env`
(the name of a variable holding it).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, NamedTuple, get_args

from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields

from gateway.config.sections import Config

PREFIX: Final = "RINGBACK_"
ANY_TENANT: Final = "<tenant>"  # stands for a tenant's name in the path of a `Setting`
ANY_BACKEND: Final = "<backend>"  # the same for a backend of its push section
_NAMED: Final = {"tenants": (ANY_TENANT,), "backends": (ANY_BACKEND,)}  # tables of sections


class Setting(NamedTuple):
    """One key, such as `("tenants", ANY_TENANT, "auth", "secret")`."""

    path: tuple[str, ...]
    field: FieldInfo
    names: tuple[str, ...]  # the last part of the path, in every way in which it may be written


@cache
def fields_of(kind: type[Struct]) -> tuple[FieldInfo, ...]:
    """The settings of a section. Found out once: its annotations are text that is compiled, and a
    configuration may have tens of thousands of backends."""
    return fields(kind)


def _settings(kind: type[Struct] = Config, path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Every key that there is, in the order of the sections."""
    for info in fields_of(kind):
        section = section_of(info)
        if section is not None:
            yield from _settings(section, (*path, info.name, *_NAMED.get(info.name, ())))
        else:
            yield Setting((*path, info.name), info, names_of(info))


def section_of(info: FieldInfo) -> type[Struct] | None:
    """The section that a field opens, or a table of them; None for a value."""
    for kind in (info.type, *get_args(info.type)):
        if isinstance(kind, type) and issubclass(kind, Struct):
            return kind
    return None


def names_of(info: FieldInfo) -> tuple[str, ...]:
    """The names that a field may have in its table: of the value, of a file, of a variable."""
    is_sourced = section_of(info) is None and extra_of(info).get("sourced")
    return (info.name, f"{info.name}_file", f"{info.name}_env") if is_sourced else (info.name,)


def extra_of(info: FieldInfo) -> dict[str, Any]:
    """How a value is taken: what `gateway.config.values.meta` notes."""
    return meta_of(info).extra or {}


def meta_of(info: FieldInfo) -> Meta:
    """What a value may be, in words too."""
    meta: Meta = get_args(info.type)[1]
    return meta


SETTINGS: Final = tuple(_settings())


def dotted(path: tuple[str, ...]) -> str:
    """The key at `path`, as TOML writes it."""
    return ".".join(part if re.fullmatch(r"[\w<>-]+", part) else f'"{part}"' for part in path)


def variable_of(path: tuple[str, ...]) -> str:
    """The environment variable of the key at `path`."""
    return PREFIX + "__".join(re.sub(r"[.-]", "_", part).upper() for part in path)
