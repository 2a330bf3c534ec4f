"""The layer rule: imports go down or sideways, never up or round. The table below is the rule."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Every part of core and the layer it is in. A new part needs a line here.
LAYER = {
    "core.errors": 0, "core.action_scripts": 0, "core.options": 0, "core.kernel": 0, "core.proc": 0, "core.native": 0,
    "core.memory": 1, "core.tracee": 1, "core.ids": 1, "core.plan": 1, "core.images": 1, "core.vdso": 1,
    "core.resources": 2,
    "core.collect": 3, "core.memory_plan": 3, "core.task_plan": 3, "core.checkpoint": 3, "core.restore": 3,
    "core.build": 3, "core.tree": 3, "core.prepare": 3,
    "core.collect_threads": 3, "core.collect_tasks": 3, "core.collect_memory": 3, "core.foreseen": 3,
    "core.mould": 3, "core.mould_files": 3,
    "core.parents": 3, "core.subjects": 3, "core.pre_dump": 3, "core.dump_writing": 3,
    "core.live": 3, "core.preflight": 3,
    "core": 4,
}  # fmt: skip
# All that migrate may see of the engine: what core/__init__ exports, and the errors.
ENGINE_DOOR = {"core", "core.errors"}
SYNCHRONOUS = ("core", "migrate.keeper")
ASYNCHRONOUS = {"asyncio", "asyncssh", "anyio", "aiohttp"}
PURE = (
    "migrate.drain.placement",
    "migrate.drain.scheduler",
    "migrate.drain.windows",
    "migrate.machine",
    "migrate.convergence",
    "migrate.events",
    "migrate.messages",
    "core.memory.ranges",
)
DOES_IO = {"asyncio", "socket", "subprocess", "asyncssh", "time", "select"}
LINES_AT_MOST = {"core/checkpoint.py": 150, "core/restore.py": 150}
VAGUE = {"util", "utils", "manager", "helper", "helpers", "data", "info", "common", "misc"}


def source_files(*folders: str) -> list[Path]:
    """Python files that people wrote."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if not path.name.endswith("_pb2.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in source_files("core", "migrate")}
KNOWN = set(MODULES) | {
    f"{module_name(path)}" for path in [*ROOT.glob("core/**/*_pb2.py"), *ROOT.glob("migrate/**/*_pb2.py")]
}


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Absolute names of everything imported, `from a import b` as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def resolve(name: str) -> str:
    """Module that an imported name is in: the longest known one, or its top package outside of ours."""
    parts = name.split(".")
    if parts[0] not in ("core", "migrate"):
        return parts[0]
    while parts and ".".join(parts) not in KNOWN:
        parts.pop()
    return ".".join(parts) or name


def imports_of(module: str) -> set[str]:
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return {resolve(name) for name in imported_names(ast.parse(path.read_text()), package)} - {module}


IMPORTS = {module: imports_of(module) for module in MODULES}


def part(module: str) -> str:
    """core.memory.pages → core.memory."""
    return ".".join(module.split(".")[:2])


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("module", sorted(name for name in MODULES if within(name, "core")))
def test_core_imports_its_own_layer_or_below(module: str) -> None:
    assert part(module) in LAYER, f"{part(module)} has no line in LAYER"
    upward = {
        name for name in IMPORTS[module] if within(name, "core") and LAYER[part(name)] > LAYER[part(module)]
    }  # fmt: skip
    assert not upward


def test_core_knows_nothing_of_migrate() -> None:
    assert [m for m in MODULES if within(m, "core") and any(within(name, "migrate") for name in IMPORTS[m])] == []


def test_migrate_uses_only_what_core_exports() -> None:
    beyond = {
        (module, name)
        for module in MODULES
        if within(module, "migrate")
        for name in IMPORTS[module]
        if within(name, "core") and name not in ENGINE_DOOR
    }
    assert beyond == set()


def test_the_engine_and_the_keeper_are_synchronous() -> None:
    found = {(m, name) for m in MODULES for name in IMPORTS[m] & ASYNCHRONOUS if any(within(m, s) for s in SYNCHRONOUS)}
    assert found == set()


def test_no_cancellation_is_swallowed() -> None:
    """asyncio.wait_for() forgets one that comes when what it waits for is just done (Python 3.11)."""
    assert [name for name, path in MODULES.items() if "asyncio.wait_for(" in path.read_text()] == []


def test_pure_modules_do_no_io() -> None:
    assert {(m, name) for m in PURE if m in MODULES for name in IMPORTS[m] & DOES_IO} == set()


def test_resources_never_import_each_other() -> None:
    shared = {"core.resources", "core.resources.context"}
    name_every_kind = ("file_table", "foresight", "table_collect", "table_plan", "file_presence")
    table = {f"core.resources.{name}" for name in name_every_kind}
    kinds = {module for module in MODULES if within(module, "core.resources")} - shared - table
    assert {(module, name) for module in kinds for name in IMPORTS[module] & (kinds | table)} == set()


def test_no_import_cycles() -> None:
    graph = {module: {name for name in IMPORTS[module] if name in MODULES} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(reversed(error.args[1])))


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", source_files("core", "migrate", "demo", "tests"), ids=label)
def test_a_file_has_one_job(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_AT_MOST.get(label(path), 400)
    assert path.stem not in VAGUE


@pytest.mark.parametrize("path", [p for p in source_files("tests") if p.name.startswith("test_")], ids=label)
def test_tests_wait_for_conditions_instead_of_sleeping(path: Path) -> None:
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert [ast.unparse(call) for call in calls if ast.unparse(call) in ("time.sleep", "asyncio.sleep", "sleep")] == []
