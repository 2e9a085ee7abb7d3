"""Which adapters there are: ours, and those of installed distributions.

Decides what a name means, and what an operator is told when it means nothing. Leaves the form to
each adapter. An installed one is a function (a `Make`) in the entry point group
`ringback.adapters`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Final

import orjson

from push.adapters import asapp, liveperson, matrix, standard, template, zendesk
from push.adapters.form import Adapter, Make
from push.ring import PushError

GROUP: Final = "ringback.adapters"

ADAPTERS: Final[dict[str, Make]] = {
    "asapp": asapp.make,
    "standard": standard.make,
    "liveperson": liveperson.make,
    "zendesk": zendesk.make,
    "matrix": matrix.make,
    "template": template.make,
}


class UnknownAdapterError(PushError):
    """A tenant names an adapter that does not exist. `name` is what it asked for."""

    def __init__(self, name: str, there_are: Iterable[str]) -> None:
        super().__init__(f"no push adapter is called {name!r}; there are: {', '.join(there_are)}")
        self.name = name


class AdapterBroken(PushError):
    """An installed adapter cannot be used. `problem` says why, without a traceback."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"the push adapter {name!r} {problem}")
        self.name = name
        self.problem = problem


def names() -> list[str]:
    """Return the names of all adapters: ours first, then the installed ones."""
    installed = {point.name for point in entry_points(group=GROUP)}
    return [*ADAPTERS, *sorted(installed - ADAPTERS.keys())]


@lru_cache(maxsize=1024)
def adapter_named(name: str, options: str = "{}") -> Adapter:
    """Return the adapter of that name for a tenant's `options`, a JSON object as text.

    Ours cannot be replaced by an installed one. Raises `UnknownAdapterError`, `AdapterBroken` or
    `OptionError`.
    """
    make = ADAPTERS.get(name)
    given: dict[str, Any] = orjson.loads(options)
    return _installed(name, given) if make is None else make(given)


def _installed(name: str, options: dict[str, Any]) -> Adapter:
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        raise UnknownAdapterError(name, names())
    if len({point.value for point in points}) > 1:
        found = " and ".join(sorted(point.value for point in points))
        raise AdapterBroken(name, f"is installed twice ({found}); remove one of them")
    try:
        make = points[0].load()
    except (Exception, SystemExit) as error:  # whatever its module does when it is imported
        problem = f"cannot be loaded from {points[0].value} ({type(error).__name__}: {error})"
        raise AdapterBroken(name, problem) from error
    try:
        adapter = make(options)
    except PushError:
        raise
    except Exception as error:
        problem = f"broke when it was given its options ({type(error).__name__}: {error})"
        raise AdapterBroken(name, problem) from error
    if not isinstance(adapter, Adapter):
        raise AdapterBroken(name, f"is no function from options to an Adapter ({points[0].value})")
    return adapter
