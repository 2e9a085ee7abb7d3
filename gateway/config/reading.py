"""Reading a configuration: the TOML file and the environment, turned into the sections.

Decides: where each value comes from, and in which words it is refused. Whatever comes out of
`load` is complete and consistent, with every secret and key file read; the rest of the program
never asks again. Leaves to others: which sections there are and what makes them impossible
(`gateway.config.sections`), what a value may be (`gateway.config.values`), which key a variable
means (`gateway.config.environment`), and what runs without a configuration
(`gateway.config.development`).

Sources, the later one wins: the defaults, the file, the environment. Relative paths are relative
to the file's directory.

Everything wrong is a `ConfigError`: one line with the key, what is wrong and what would be right,
never with the value of a secret.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo

from gateway.config.environment import Table, overlay
from gateway.config.push import PushBackend
from gateway.config.sections import Config, Storage, Tenant, check, check_tenant_name
from gateway.config.settings import (
    SETTINGS,
    dotted,
    extra_of,
    fields_of,
    meta_of,
    names_of,
    section_of,
)
from gateway.config.values import ConfigError, FromEnvironment, Wrong, convert


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration of a TOML file, or of the environment alone; raises `ConfigError`."""
    tables = {} if path is None else _read_toml(path)
    overlay(tables, environ)
    base = Path.cwd() if path is None else path.absolute().parent
    return Reader(base, environ).config(tables)


def _read_toml(path: Path) -> Table:
    expected = "a TOML file, such as `ringback init` writes"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror})", expected) from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), "is not UTF-8", expected) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, too
        raise ConfigError(str(path), f"is not TOML ({error})", expected) from None


_S = TypeVar("_S", bound=Struct)


@dataclass(frozen=True, slots=True)
class Reader:
    """Turns tables into sections; raises `ConfigError`.

    `given` notes the name under which a sourced key came.
    """

    base: Path
    environ: Mapping[str, str]
    given: dict[str, str] = field(default_factory=dict)

    def config(self, tables: Table) -> Config:
        """All sections, if they go together. `tables` is changed."""
        storage = tables.setdefault("storage", {})
        if isinstance(storage, dict):
            storage.setdefault("url", Storage().url)  # given, so that it is made absolute
        config = self.section(Config, tables, ())
        check(config, self._blame)
        return config

    def section(self, kind: type[_S], table: object, path: tuple[str, ...]) -> _S:
        """The section at `path`, of what the file or the environment has there."""
        if not isinstance(table, dict):
            raise ConfigError(dotted(path), "is not a section", f"[{dotted(path)}]")
        self._refuse_unknown(kind, table, path)
        values: dict[str, Any] = {}
        for info in fields_of(kind):
            here = (*path, info.name)
            inner = section_of(info)
            if info.name == "tenants":
                values["tenants"] = self._tenants(table.get("tenants"))
            elif info.name == "backends":
                values["backends"] = self._backends(table.get("backends", {}), here)
            elif inner is None:
                values[info.name] = self._value(info, table, here)
            elif info.name in table:
                values[info.name] = self.section(inner, table[info.name], here)
            elif info.default is NODEFAULT:
                raise ConfigError(dotted(here), "is missing", f"a section [{dotted(here)}]")
            else:
                values[info.name] = info.default
        return kind(**values)

    def _blame(self, path: tuple[str, ...]) -> Wrong:
        """Errors about the section at `path`, by the name under which each key was given."""

        def wrong(name: str, problem: str, expected: str) -> ConfigError:
            key = dotted((*path, *name.split(".")))
            return ConfigError(self.given.get(key, key), problem, expected)

        return wrong

    def _tenants(self, table: object) -> dict[str, Tenant]:
        if not isinstance(table, dict) or not table:
            raise ConfigError("tenants", "has no tenant", "a section such as [tenants.acme]")
        for name in table:
            check_tenant_name(name, dotted(("tenants", name)))
        return {
            name: self.section(Tenant, inner, ("tenants", name)) for name, inner in table.items()
        }

    def _backends(self, table: object, path: tuple[str, ...]) -> dict[str, PushBackend]:
        if not isinstance(table, dict):
            raise ConfigError(dotted(path), "is not a section", f"[{dotted((*path, 'qa'))}]")
        return {
            name: self.section(PushBackend, inner, (*path, name)) for name, inner in table.items()
        }

    def _refuse_unknown(self, kind: type[Struct], table: Table, path: tuple[str, ...]) -> None:
        known = [name for info in fields_of(kind) for name in names_of(info)]
        for name in table:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                moved = [dotted(s.path) for s in SETTINGS if s.path[-1] == name]
                here = [dotted((*path, one)) for one in close or known]
                expected = here[0] if close else next(iter(moved), "one of " + ", ".join(here))
                raise ConfigError(dotted((*path, name)), "is not a known key", expected)

    def _value(self, info: FieldInfo, table: Table, path: tuple[str, ...]) -> Any:
        expected = meta_of(info).description or ""
        key, raw = self._raw(info, table, path)
        if raw is None:
            if info.default is NODEFAULT:
                raise ConfigError(key, "is missing", expected)
            return info.default
        parse = extra_of(info).get("parse")
        try:
            return convert(raw, info.type) if parse is None else parse(raw, self.base)
        except ValueError as error:
            raise ConfigError(key, str(error), expected) from None

    def _raw(self, info: FieldInfo, table: Table, path: tuple[str, ...]) -> tuple[str, Any]:
        """Under which key the value was given, and the value; None if it was not."""
        names = names_of(info)
        found = [name for name in names if name in table]
        if not found:
            return dotted(path), None
        name = found[0]
        raw = table[name]
        from_environment = isinstance(raw, FromEnvironment)
        key = raw.variable if from_environment else dotted((*path[:-1], name))
        if len(found) > 1:
            raise ConfigError(key, f"is given beside {found[1]}", "only one of the two")
        self.given[dotted(path)] = key
        if name == names[0]:
            return key, raw
        if not isinstance(raw, str) or not raw:
            raise ConfigError(key, "is not a text", "a file's or a variable's name")
        return key, self._from_file(key, raw) if name == names[1] else self._from_variable(key, raw)

    def _from_file(self, key: str, name: str) -> str:
        path = self.base / name
        try:
            return path.read_text(encoding="utf-8-sig").strip()
        except OSError as error:
            problem = f"cannot be read ({path}: {error.strerror})"
        except ValueError:
            problem = f"cannot be read ({path}: not a UTF-8 text)"
        raise ConfigError(key, problem, "a file that this user can read")

    def _from_variable(self, key: str, name: str) -> str:
        if name not in self.environ:
            raise ConfigError(key, f"names {name}, which is not set", "a variable that is set")
        return self.environ[name]
