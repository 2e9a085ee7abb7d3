"""What runs without a configuration."""

import os
import stat
from pathlib import Path

import pytest

from gateway.config.development import development
from gateway.config.values import ConfigError, Secret
from tests.gateway.configured import ENCRYPTION_KEY, SECRET, push_of


def test_without_a_configuration_a_development_tenant_runs_on_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = development({})
    assert list(config.tenants) == ["dev"]
    assert push_of(config, "dev").endpoint == "http://127.0.0.1:8090/ring"
    assert {getattr(config.server, name).host for name in ("chat", "http", "admin")} == {
        "127.0.0.1"
    }
    assert config.storage.path == tmp_path / "ringback-dev.db"


KEPT = ["ringback-dev.key", "ringback-dev.secret"]


def test_the_development_secrets_are_kept_for_their_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = development({})
    assert development({}) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == KEPT
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in KEPT} == {0o600}
    assert first.storage.keys.present is not None
    (tmp_path / "ringback-dev.secret").unlink()
    assert development({}).tenants["dev"].auth.secret != first.tenants["dev"].auth.secret


def test_of_two_that_make_the_development_secret_at_once_the_first_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    link = os.link

    def another_was_faster(source: str, target: Path) -> None:
        target.write_text("the-first-one's-secret-that-was-already-there\n")
        link(source, target)

    monkeypatch.setattr("gateway.config.development.os.link", another_was_faster)
    kept = Secret("the-first-one's-secret-that-was-already-there")
    environ = {"RINGBACK_STORAGE__ENCRYPTION_KEY": ENCRYPTION_KEY}
    assert development(environ).tenants["dev"].auth.secret == kept
    assert [path.name for path in tmp_path.iterdir()] == ["ringback-dev.secret"]


def test_the_environment_overrides_the_development_configuration_too(tmp_path: Path) -> None:
    environ = {
        "RINGBACK_STORAGE__URL": f"sqlite:///{tmp_path}/x.db",
        "RINGBACK_SERVER__CHAT": "127.0.0.1:0",
        "RINGBACK_STORAGE__ENCRYPTION_KEY": ENCRYPTION_KEY,
        "RINGBACK_TENANTS__DEV__AUTH__SECRET": SECRET,
    }
    config = development(environ)
    assert config.server.chat.port == 0
    assert config.tenants["dev"].auth.secret == Secret(SECRET)
    assert list(tmp_path.iterdir()) == []


def test_a_development_secret_that_cannot_be_kept_is_one_line(tmp_path: Path) -> None:
    environ = {"RINGBACK_STORAGE__URL": f"sqlite:///{tmp_path}/none/x.db"}
    with pytest.raises(ConfigError) as caught:
        development(environ)
    assert caught.value.key == f"{tmp_path}/none/ringback-dev.secret"
    assert caught.value.problem == "cannot be written (No such file or directory)"
