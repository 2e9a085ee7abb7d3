"""Every setting, and how it is written."""

from gateway.config.settings import ANY_BACKEND, ANY_TENANT, SETTINGS, dotted, names_of, variable_of


def test_every_setting_is_there_once_and_those_of_a_tenant_stand_for_any() -> None:
    paths = [setting.path for setting in SETTINGS]
    assert len(set(paths)) == len(paths)
    assert ("server", "chat") in paths
    assert ("tenants", ANY_TENANT, "push", "content", "mode") in paths
    assert ("tenants", ANY_TENANT, "push", "backends", ANY_BACKEND, "app") in paths


def test_a_secret_can_be_named_by_its_file_or_variable_and_other_values_cannot() -> None:
    names = {setting.path[-1]: names_of(setting.field) for setting in SETTINGS}
    assert names["secret"] == ("secret", "secret_file", "secret_env")
    assert names["leeway"] == ("leeway",)


def test_a_key_is_written_as_in_the_file_and_as_a_variable() -> None:
    path = ("tenants", "acme-eu.1", "auth", "secret")
    assert dotted(path) == 'tenants."acme-eu.1".auth.secret'
    assert variable_of(path) == "RINGBACK_TENANTS__ACME_EU_1__AUTH__SECRET"
