"""The text that `ringback init` writes: a configuration to start from.

Decides: what a first configuration looks like, with fresh secrets in it. Leaves to others:
writing the file (for its owner only: it holds secrets) and what the keys mean in full.
"""

from __future__ import annotations

import secrets
from typing import Final

from gateway.config.values import fresh_key, is_host
from push.signing import new_secret

_TEXT: Final = """\
# Ringback's configuration. Every key, with its default: docs/configuration.md
#
# This file holds secrets: keep it readable by its owner only. Instead of `secret = "..."` you
# may write `secret_file = "path"` or `secret_env = "VARIABLE"`, and the same with `auth_token`
# and `signing_secret`. Any key can be overridden by an environment variable, for example
# RINGBACK_SERVER__CHAT (two underscores between levels).
# `ringback check-config --config <this file>` says whether all is well.

[server]                       # port 0 means any free one; an IPv6 address goes in brackets
chat = "127.0.0.1:8080"        # WebSockets. TLS is the business of the proxy in front
http = "127.0.0.1:8081"        # HTTP API
admin = "127.0.0.1:8082"       # health, readiness, metrics: keep it private

[storage]
url = "sqlite:///ringback.db"  # beside this file; sqlite:////var/lib/... for an absolute path
encryption_key = "{encryption_key}"  # of device tokens: keep a copy elsewhere

[delivery]                     # seconds
ack_timeout = 5.0              # in chat, but not acknowledged for so long: push
disconnect_grace = 1.0         # for a socket that dropped and may be back at once
restart_grace = 10.0           # no push for so long after a start; longer than restart_window
restart_window = 5.0           # in which clients come back after a restart
max_hold = 30.0                # reconnecting again and again never holds a push longer

# One section like this for each tenant; this one is called {tenant}.
[tenants.{key}]
origins = ["https://app.{host}"]  # the web pages that may connect, exactly

[tenants.{key}.auth]           # how the tenant's server signs the tokens of its users
algorithm = "HS256"            # or RS256, ES256, EdDSA with public_key_file or jwks_file
secret = "{secret}"

[tenants.{key}.push]           # the tenant's backend that sends on to APNs or FCM
adapter = "asapp"              # other forms of the request: docs/adapters.md
endpoint = "https://push.{host}/ring"
auth_token = "{auth_token}"  # sent as authToken, for the backend to check
signing_secret = "{signing_secret}"  # Standard Webhooks
expires_after = "24h"          # a message that could not be pushed for so long expires
"""


def config_text(tenant: str) -> str:
    """A commented TOML configuration for one tenant. Secrets are new with every call.

    `tenant` is 1 to 128 of `a-z 0-9 . _ -`, as the configuration requires.
    """
    host = f"{tenant.replace('_', '-')}.example"
    return _TEXT.format(
        tenant=tenant,
        key=f'"{tenant}"' if "." in tenant else tenant,
        host=host if is_host(host) else "acme.example",
        secret=secrets.token_urlsafe(48),
        encryption_key=fresh_key(),
        auth_token=secrets.token_urlsafe(24),
        signing_secret=new_secret(),
    )
