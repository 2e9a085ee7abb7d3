"""The layout of the packages, read from the imports with `ast`: who may know whom."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("gateway", "push", "storage")
IMPURE = {"asyncio", "websockets", "aiohttp", "aiosqlite"}
SERVING = "gateway.wire"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
PURE = [
    "gateway.protocol",
    "gateway.decoding",
    "gateway.session",
    "gateway.delivery",
    "gateway.policies",
    "gateway.wishes",
    "gateway.wanted",
    "gateway.frames",
    "gateway.clientside.errors",
    "gateway.clientside.told",
    "gateway.clientside.timeline",
    "gateway.clientside.outbox",
    "gateway.clientside.marks",
    "gateway.clientside.comeback",
    "gateway.clientside.notifications",
    "gateway.kit.advice",
    "gateway.kit.behaviours",
    "gateway.kit.masking",
    "gateway.kit.received",
    "gateway.addresses",
    "gateway.campaigns.audience",
    "push.ring",
    "push.credentials",
    "push.oauth",
    "push.content",
    "push.signing",
    "push.verdicts",
    "push.retry",
    "push.guard",
    "push.breaker",
    "push.lane",
    "push.backends",
    "storage.records",
    "storage.vault",
    "storage.outcomes",
    "storage.campaigns",
    "storage.deadletters",
    "storage.schema",
    "storage.sql",
    "storage.transaction",
    "storage.errors",
    *sorted(name for name in FILES if name.startswith("push.adapters")),
]


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers see."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield from (other, *nodes(other))
        else:
            yield child
            yield from nodes(child)


def imported_by(tree: ast.AST, package: str) -> set[str]:
    """Dotted names of what `tree` imports; `from a import b` gives `a` and `a.b`."""
    found: set[str] = set()
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -(node.level - 1) or None] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


@cache
def imports(module: str) -> frozenset[str]:
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return frozenset(imported_by(ast.parse(path.read_text()), package))


def ours(names: frozenset[str]) -> set[str]:
    """Modules of ours among `names`, with the packages that importing them runs."""
    parts = [name.split(".") for name in names]
    prefixes = {".".join(p[:n]) for p in parts for n in range(1, len(p) + 1)}
    return prefixes & FILES.keys()


def reached_from(module: str) -> dict[str, list[str]]:
    """Every module of ours that importing `module` loads, each with the way there."""
    ways = {module: [module]}
    waiting = [module]
    while waiting:
        at = waiting.pop()
        for name in ours(imports(at)):
            if name not in ways:
                ways[name] = [*ways[at], name]
                waiting.append(name)
    return ways


def impurities(module: str) -> list[str]:
    """How `module` comes by what a pure module must not know."""
    return [
        " -> ".join([*way, name])
        for at, way in reached_from(module).items()
        for name in sorted(imports(at))
        if name.partition(".")[0] in IMPURE
    ]


def test_the_files_of_all_three_packages_are_read() -> None:
    assert {name.partition(".")[0] for name in FILES} == set(PACKAGES)
    assert set(PURE) <= FILES.keys()


def test_the_reading_of_imports_understands_every_form() -> None:
    source = """
import a.b as c, d
from e.f import g as h
from . import i
from .j import k
from ..l import m
if TYPE_CHECKING:
    import unseen
else:
    import seen
if TYPE_CHECKING and n:
    from unseen import unseen
def late():
    import o
try:
    import p
except ImportError:
    pass
"""
    assert imported_by(ast.parse(source), "x.y") == {
        "a.b", "d", "e.f", "e.f.g", "x.y", "x.y.i", "x.y.j", "x.y.j.k", "x.l", "x.l.m",
        "seen", "o", "p",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("package", "may"), [("push", {"push"}), ("storage", {"storage"}), ("gateway", set(PACKAGES))]
)
def test_push_and_storage_know_neither_each_other_nor_the_gateway(
    package: str, may: set[str]
) -> None:
    seen = {
        f"{module} imports {name}"
        for module in FILES
        if module.partition(".")[0] == package
        for name in imports(module)
        if (top := name.partition(".")[0]) in (*PACKAGES, "tests", "examples", "bench")
        if top not in may
    }
    assert seen == set()


def test_the_gateway_uses_push_and_storage() -> None:
    used = {n.partition(".")[0] for m in FILES if m.startswith("gateway.") for n in imports(m)}
    assert {"push", "storage"} <= used


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_reaches_no_io_not_even_through_others_of_ours(module: str) -> None:
    assert impurities(module) == []


@pytest.mark.parametrize(
    ("module", "library"),
    [
        ("gateway.server", "aiohttp"),
        ("storage.store", "aiosqlite"),
        ("push.worker", "asyncio"),
        ("gateway.server", "websockets"),
    ],
)
def test_an_impure_module_is_recognised_as_one(module: str, library: str) -> None:
    assert any(f"-> {library}" in way for way in impurities(module))


def test_one_file_serves_websockets_and_the_client_knows_only_the_client_side() -> None:
    uses = {
        module: {name for name in imports(module) if name.partition(".")[0] == "websockets"}
        for module in FILES
    }
    serving = uses.pop(SERVING)
    assert "websockets.server.ServerProtocol" in serving
    assert {name for name in serving if "asyncio" in name or name == "websockets"} == set()
    client = uses.pop("gateway.clientside.link")
    assert "websockets.asyncio.client" in client
    assert {name for name in client if "serve" in name or name == "websockets"} == set()
    assert {module for module, names in uses.items() if names} == set()


def test_the_gateway_needs_nothing_of_the_python_client_and_its_parts_not_their_face() -> None:
    parts = {module for module in FILES if module.startswith("gateway.clientside")}
    using = {module for module in FILES if imports(module) & {*parts, "gateway.client"}}
    assert using - parts == {"gateway.client"}
    assert [part for part in parts if "gateway.client" in imports(part)] == []


FOR_TESTS = {
    "ACK_WITHIN": "what the doc asks of clients",
    "REF_KEPT_DAYS": "what the doc promises; nothing forgets a ref",
    "SERVER_FRAMES": "what the doc is held against, from what mypy checks",
}


def test_what_is_made_is_used_and_not_by_tests_alone() -> None:
    """Top-level names, but for commands, which their decorator takes."""
    used = Counter(
        word for path in FILES.values() for word in re.findall(r"[A-Za-z_]\w+", path.read_text())
    )
    unused: set[str] = set()
    for path in FILES.values():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names = [] if node.decorator_list else [node.name]
            elif isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            else:
                names = [n.id for n in [getattr(node, "target", None)] if isinstance(n, ast.Name)]
            unused.update(name for name in names if used[name] == 1 and not name.startswith("__"))
    assert unused == FOR_TESTS.keys()


def test_only_storage_knows_sqlite() -> None:
    knowing = {
        module
        for module in FILES
        if any(name.partition(".")[0] in ("sqlite3", "aiosqlite") for name in imports(module))
    }
    assert knowing == {"storage.database", "storage.audit"}


def texts(module: str) -> Iterator[str]:
    """What `module` has as strings, but for docstrings."""
    tree = ast.parse(FILES[module].read_text())
    told = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value


def test_sql_is_written_in_storage_alone() -> None:
    sql = re.compile(r"\b(SELECT\b.+\bFROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM)\b", re.DOTALL)
    writing = {module for module in FILES if any(sql.search(text) for text in texts(module))}
    assert {module.partition(".")[0] for module in writing} == {"storage"}
    assert "storage.sql" in writing


def test_sqlite_is_told_how_to_work_only_where_its_file_is_opened_made_or_recounted() -> None:
    telling = {m for m in FILES if any("PRAGMA" in text or "VACUUM" in text for text in texts(m))}
    assert telling == {"storage.database", "storage.schema", "storage.audit"}


def test_nothing_that_is_published_names_files_outside_the_repository() -> None:
    published = [
        *FILES.values(),
        *(p for p in (ROOT / "docs").rglob("*") if p.is_file() and p.suffix != ".png"),
        *ROOT.glob("*.md"),
        *ROOT.glob("*.toml"),
        *(ROOT / "examples").rglob("*.py"),
    ]
    assert len(published) > len(FILES)
    foreign = "shared" + "/"
    assert [str(path) for path in published if foreign in path.read_text()] == []
