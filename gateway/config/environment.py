"""The environment, laid over the tables of the file.

Decides: which key a variable means, and that it takes the place of every form in which the file
gives that key. Leaves to others: the names of variables (`gateway.config.settings`), and what the
values come to (`gateway.config.reading`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

from gateway.config.settings import ANY_BACKEND, ANY_TENANT, PREFIX, SETTINGS, variable_of
from gateway.config.values import ConfigError, FromEnvironment

Table = dict[str, Any]

VARIABLES: Final = tuple(variable_of(setting.path) for setting in SETTINGS)
SLIPS: Final = {variable.replace("__", "_"): variable for variable in VARIABLES}
"""What each variable would be with one underscore too few, wherever there should be two."""


def overlay(tables: Table, environ: Mapping[str, str]) -> None:
    """Put the `RINGBACK_…__…` variables into `tables`, which is changed.

    Names with no double underscore are not ours: orchestrators make `RINGBACK_PORT` and the like
    for a service of that name. One that is a setting but for an underscore is a slip, though.
    """
    for variable, value in sorted(environ.items()):
        if variable in SLIPS:
            raise ConfigError(variable, "has one underscore too few", SLIPS[variable])
        if not variable.startswith(PREFIX) or "__" not in variable:
            continue
        path, forms = _key_of(variable, tables)
        _place(tables, path, forms, FromEnvironment.of(variable, value))


def _key_of(variable: str, tables: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The path that a variable names, and the forms that its last part may take."""
    rest = variable.removeprefix(PREFIX).upper()
    path = tuple(rest.lower().split("__"))
    if path[0] == "tenants":
        tenants = _tables_in(tables, "tenants")
        tenant = _name_of(variable, rest.split("__")[1], tenants)
        path = ("tenants", tenant, *path[2:])
        if path[2:4] == ("push", "backends") and len(path) > 4:
            backends = _tables_in(tenants, tenant, "push", "backends")
            path = (*path[:4], _name_of(variable, rest.split("__")[4], backends), *path[5:])
    named = dict(zip((ANY_TENANT, ANY_BACKEND), (*path[1:2], *path[4:5]), strict=False))
    known = {
        (*(named.get(part, part) for part in s.path[:-1]), form): s.names
        for s in SETTINGS
        for form in s.names
        if (s.path[0] == "tenants") == (path[0] == "tenants")
    }
    if path not in known:
        names = [variable_of(one) for one in known]
        close = difflib.get_close_matches(variable, names, n=1, cutoff=0)
        raise ConfigError(variable, "names no setting", close[0])
    return path, known[path]


def _tables_in(tables: Table, *path: str) -> Table:
    """What the file has below `path`; nothing if there is no table."""
    for part in path:
        inner = tables.get(part)
        tables = inner if isinstance(inner, dict) else {}
    return tables


def _name_of(variable: str, given: str, names: Table) -> str:
    """The name in the file that is meant, with `.` or `-` where `given` has `_`; or a new one."""
    meant = [name for name in names if variable_of((name,)) == PREFIX + given]
    if len(meant) > 1:
        raise ConfigError(variable, f"could mean {' or '.join(meant)}", "the key in the file")
    return meant[0] if meant else given.lower()


def _place(
    tables: Table, path: tuple[str, ...], forms: tuple[str, ...], value: FromEnvironment
) -> None:
    """Put one value where it belongs, in place of whichever form of it the file has."""
    for part in path[:-1]:
        inner = tables.setdefault(part, {})
        if not isinstance(inner, dict):
            return  # no table where one should be: reading reports it
        tables = inner
    for form in forms:
        if not isinstance(tables.get(form), FromEnvironment):
            tables.pop(form, None)
    tables[path[-1]] = value
