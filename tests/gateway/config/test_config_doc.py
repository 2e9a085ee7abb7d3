"""docs/configuration.md has every setting, its type, its default and its variable."""

import json
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from gateway.config import content, credentials, push, values
from gateway.config.settings import ANY_BACKEND, SETTINGS, Setting
from gateway.config.values import Secret
from tests.gateway.configured import GOOD, SECRET, WHSEC, push_of, read, refused

DOC = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()

ROWS = {
    key: (kind, default, meaning, variable)
    for key, kind, default, meaning, variable in re.findall(
        r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \| `(RINGBACK_[^`]+)` \|$", DOC, re.M
    )
}

KINDS = {
    values.Listen: "address",
    values.SqliteUrl: "URL",
    values.Url: "URL",
    values.Seconds: "seconds",
    values.Wait: "seconds",
    values.HourAtMost: "seconds",
    values.Leeway: "seconds",
    values.Lifetime: "duration",
    values.Count: "number",
    values.FrameBytes: "number",
    values.Origins: "list of texts",
    values.CaFile: "path",
    credentials.PemFile: "path",
    credentials.Headers: "table of secrets",
    values.Networks: "list of networks",
    push.Inside: "list of networks",
    push.Rate: "number",
    push.Options: "table",
    values.Flag: "true or false",
    values.KeyText: "key text",
    values.EncryptionKey: "secret",
    values.Required: "secret",
    values.OptionalSecret: "secret",
    push.Quiet: "hours",
    content.ByLanguage: "texts by language",
    push.SigningSecret: "secret",
}

DOCUMENTED = [
    setting
    for setting in SETTINGS
    if ANY_BACKEND not in setting.path or setting.path[-1] in ("environment", "app")
]
"""The other keys of a further backend are those of the tenant's own."""


def shown_default(setting: Setting) -> str:
    default = setting.field.default
    if default is msgspec.NODEFAULT:
        return "required"
    if default is None:
        return "none"
    if setting.field.type == values.Lifetime:
        return f'`"{default / 3600:g}h"`'
    if setting.field.type in (values.Networks, values.Origins, push.Inside):
        return f"`{json.dumps([str(one) for one in default])}`"
    if isinstance(default, bool | int | float):
        return f"`{json.dumps(default)}`"
    return f'`"{default}"`'


def test_the_documentation_has_every_key_and_no_other() -> None:
    documented = re.findall(r"^\| `([^`]+)` \|.*\| `RINGBACK_[^`]+` \|$", DOC, re.M)
    assert sorted(documented) == sorted(".".join(setting.path) for setting in DOCUMENTED)


def test_a_further_backend_takes_what_the_documentation_says_it_takes() -> None:
    below = {
        of: {s.path[s.path.index(of) + 1] for s in SETTINGS if of in s.path[:-1]}
        for of in ("push", ANY_BACKEND)
    }
    said = re.search(r"every key of the push section but (.*?), which are", DOC, re.S)
    assert said is not None
    assert below["push"] - below[ANY_BACKEND] == set(re.findall(r"`(\w+)`", said[1]))
    assert below[ANY_BACKEND] - below["push"] == {"environment", "app"}


@pytest.mark.parametrize("setting", DOCUMENTED, ids=lambda s: ".".join(s.path))
def test_the_documentation_tells_the_type_default_and_variable_of(setting: Setting) -> None:
    kind, default, meaning, variable = ROWS[".".join(setting.path)]
    assert kind == KINDS.get(setting.field.type, "text")
    assert default == shown_default(setting)
    assert meaning.strip()
    assert variable == "RINGBACK_" + "__".join(setting.path).upper()
    words = get_args(setting.field.type)[1].description
    assert words, "an error could not say what would be right"


def test_the_documentations_example_and_error_are_real(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", DOC, re.S)
    shown = re.search(r"```\n(delivery\..*?)\n```", DOC)
    assert example is not None
    assert shown is not None
    (tmp_path / "acme.secret").write_text(SECRET)
    (tmp_path / "acme-signing.secret").write_text(WHSEC)
    environ = {"ACME_AUTH_TOKEN": "t"}
    assert push_of(read(tmp_path, example[1], environ)).signing_secret == Secret(WHSEC)
    misspelt = "[delivery]\nack_timout = 1\n" + example[1]
    assert str(refused(tmp_path, misspelt, environ)) == shown[1]


def test_the_documented_kinds_of_override_work(tmp_path: Path) -> None:
    text = GOOD + f'[tenants.acme-eu.auth]\nalgorithm = "HS256"\nsecret = "{SECRET}"\n'
    shown = re.findall(r"^\| `(RINGBACK_\w+)=([^`]+)` \|", DOC, re.M)
    environ = {name: value.replace("…", "x.example/") for name, value in shown}
    assert len(environ) == 4
    config = read(tmp_path, text, environ)
    assert config.tenants["acme-eu"].origins == ("https://a.example", "https://b.example")
    assert config.delivery.ack_timeout == 2.5
