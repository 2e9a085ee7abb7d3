"""What `ringback serve` runs with no configuration, for somebody who tries it out.

Decides: that tenant, its addresses, and where its secrets are kept. Leaves to others: reading it
as any other configuration (`gateway.config.reading`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.config.auth import Algorithm
from gateway.config.environment import Table, overlay
from gateway.config.reading import Reader
from gateway.config.sections import Config, Storage
from gateway.config.values import ConfigError, fresh_key

DEVELOPMENT_TENANT: Final = "dev"
DEVELOPMENT_SECRET: Final = "ringback-dev.secret"  # noqa: S105 - a file's name
DEVELOPMENT_KEY: Final = "ringback-dev.key"
DEVELOPMENT_ENDPOINT: Final = "http://127.0.0.1:8090/ring"
DEVELOPMENT_AUTH_TOKEN: Final = "dev"  # noqa: S105 - known to all

_SECRET_FORMS: Final = {"secret", "secret_file", "secret_env"}


def development(environ: Mapping[str, str]) -> Config:
    """What `ringback serve` runs with no configuration: one tenant, on loopback.

    The environment still overrides. The tenant's secret is made once and kept, for its owner
    only, beside the database, so that tokens outlive a restart. Raises `ConfigError`.
    """
    auth: Table = {"algorithm": Algorithm.HS256.value}
    tenant = {
        "origins": ["http://127.0.0.1:8090", "http://localhost:8090"],
        "auth": auth,
        "push": {"endpoint": DEVELOPMENT_ENDPOINT, "auth_token": DEVELOPMENT_AUTH_TOKEN},
    }
    tables: Table = {
        "storage": {"url": "sqlite:///ringback-dev.db"},
        "tenants": {DEVELOPMENT_TENANT: tenant},
    }
    overlay(tables, environ)
    reader = Reader(Path.cwd(), environ)
    beside = reader.section(Storage, tables["storage"], ("storage",)).path.with_name
    if auth["algorithm"] == Algorithm.HS256 and not auth.keys() & _SECRET_FORMS:
        auth["secret_file"] = str(_kept(beside(DEVELOPMENT_SECRET), secrets.token_urlsafe(48)))
    if not any(name.startswith("encryption_key") for name in tables["storage"]):
        tables["storage"]["encryption_key_file"] = str(_kept(beside(DEVELOPMENT_KEY), fresh_key()))
    return reader.config(tables)


def _kept(path: Path, secret: str) -> Path:
    """Make the file, with this in it, unless it is there.

    Whole or not at all, also when two processes start.
    """
    try:
        if not path.exists():
            descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(secret + "\n")
                with contextlib.suppress(FileExistsError):
                    os.link(draft, path)
            finally:
                Path(draft).unlink()
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise ConfigError(str(path), problem, "a directory that this user can write") from None
    return path
