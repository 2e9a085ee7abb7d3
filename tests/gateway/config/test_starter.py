"""What `ringback init` writes can be run as it is."""

import re
from pathlib import Path

import pytest

from gateway.config.push import Push
from gateway.config.reading import load
from gateway.config.sections import Config, Delivery, Limits, Server
from gateway.config.starter import config_text


def loaded(directory: Path, text: str) -> Config:
    path = directory / "ringback.toml"
    path.write_text(text)
    return load(path, {})


def push_of(config: Config, tenant: str) -> Push:
    push = config.tenants[tenant].push
    assert push is not None
    return push


@pytest.mark.parametrize("tenant", ["acme", "acme.eu", "a_b-c", "7"])
def test_the_text_is_a_configuration_for_the_tenant(tmp_path: Path, tenant: str) -> None:
    config = loaded(tmp_path, config_text(tenant))
    assert list(config.tenants) == [tenant]
    assert config.tenants[tenant].origins == (f"https://app.{tenant.replace('_', '-')}.example",)
    assert push_of(config, tenant).signing_secret is not None


@pytest.mark.parametrize("tenant", ["..", ".", "a" * 64, "-" * 128, "a..b"])
def test_a_tenants_name_that_no_host_can_have_is_in_no_address(tmp_path: Path, tenant: str) -> None:
    config = loaded(tmp_path, config_text(tenant))
    assert push_of(config, tenant).endpoint == "https://push.acme.example/ring"
    assert config.tenants[tenant].origins == ("https://app.acme.example",)


def test_what_is_written_out_are_the_defaults(tmp_path: Path) -> None:
    config = loaded(tmp_path, config_text("acme"))
    assert (config.server, config.delivery, config.limits) == (Server(), Delivery(), Limits())
    assert config.storage.path == tmp_path / "ringback.db"
    assert push_of(config, "acme").expires_after == 24 * 3600


def test_every_call_has_its_own_secrets(tmp_path: Path) -> None:
    one, two = loaded(tmp_path, config_text("acme")), loaded(tmp_path, config_text("acme"))
    secrets = [
        secret
        for config in (one, two)
        for secret in (
            config.tenants["acme"].auth.secret,
            push_of(config, "acme").auth_token,
            push_of(config, "acme").signing_secret,
        )
    ]
    assert len(set(secrets)) == 6


def test_the_sections_are_those_of_the_readme_and_each_line_is_short() -> None:
    text = config_text("acme")
    assert re.findall(r"^\[(.+?)\]", text, re.M) == [
        "server",
        "storage",
        "delivery",
        "tenants.acme",
        "tenants.acme.auth",
        "tenants.acme.push",
    ]
    assert all(len(line) <= 120 for line in text.splitlines())
