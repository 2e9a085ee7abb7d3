"""Which endpoint is a device's: the whole truth table, and what never happens."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from push.backends import Backend, choose

DEFAULT = Backend()
SHOP = Backend("shop", app="shop")
QA = Backend("qa", "sandbox")
QA_SHOP = Backend("qa-shop", "sandbox", "shop")
STAGING = Backend("staging", "staging", "shop")

NONE = None


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("backends", "environment", "app", "name"),
    [
        # the tenant's own endpoint alone: production, every app
        ([DEFAULT], None, None, ""),
        ([DEFAULT], None, "shop", ""),
        ([DEFAULT], "production", None, ""),
        ([DEFAULT], "production", "shop", ""),
        ([DEFAULT], "sandbox", None, NONE),
        ([DEFAULT], "sandbox", "shop", NONE),
        ([DEFAULT], "Production", None, NONE),
        # with a test backend
        ([DEFAULT, QA], None, "shop", ""),
        ([DEFAULT, QA], "production", "shop", ""),
        ([DEFAULT, QA], "sandbox", None, "qa"),
        ([DEFAULT, QA], "sandbox", "shop", "qa"),
        ([DEFAULT, QA], "staging", "shop", NONE),
        # an app of its own goes before all apps, within the environment
        ([DEFAULT, SHOP], None, "shop", "shop"),
        ([DEFAULT, SHOP], None, "bank", ""),
        ([DEFAULT, SHOP], None, None, ""),
        ([DEFAULT, SHOP], "sandbox", "shop", NONE),
        ([DEFAULT, SHOP, QA, QA_SHOP], "sandbox", "shop", "qa-shop"),
        ([DEFAULT, SHOP, QA, QA_SHOP], "sandbox", "bank", "qa"),
        ([DEFAULT, SHOP, QA, QA_SHOP], "sandbox", None, "qa"),
        ([DEFAULT, SHOP, QA, QA_SHOP], "production", "shop", "shop"),
        # for one app only
        ([QA_SHOP], "sandbox", "shop", "qa-shop"),
        ([QA_SHOP], "sandbox", "bank", NONE),
        ([QA_SHOP], "sandbox", None, NONE),
        ([SHOP], None, None, NONE),
        ([DEFAULT, STAGING], "staging", "shop", "staging"),
        ([DEFAULT, STAGING], "staging", "bank", NONE),
        # without any
        ([], None, None, NONE),
    ],
)
def test_a_device_s_backend_is_that_of_its_environment_and_app_or_none(
    backends: list[Backend],
    environment: str | None,
    app: str | None,
    name: str | None,
    backwards: bool,
) -> None:
    found = choose(reversed(backends) if backwards else backends, environment, app)
    assert (None if found is None else found.name) == name


ENVIRONMENTS = ["production", "sandbox", "staging"]
APPS = [None, "shop", "bank"]
ROUTES = [Backend(f"{e}-{a}", e, a) for e, a in product(ENVIRONMENTS, APPS)]


@given(
    st.lists(st.sampled_from(ROUTES), unique=True),
    st.sampled_from([None, *ENVIRONMENTS]),
    st.sampled_from(APPS),
)
def test_no_environment_and_no_app_ever_rings_at_another_s(
    backends: list[Backend], environment: str | None, app: str | None
) -> None:
    found = choose(backends, environment, app)
    if found is None:
        fits = [r for r in backends if r.environment == (environment or "production")]
        assert all(backend.app not in (None, app) for backend in fits)
    else:
        assert found.environment == (environment or "production")
        assert found.app in (None, app)
