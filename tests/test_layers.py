"""The arrows between modules: no circle, and none upward. Lazy imports and those for types count like all others."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: From the bottom to the top. A module imports from its own layer and from those below it.
LAYERS = [
    "pvera.imports",
    "pvera pvera.errors pvera.text",
    "pvera.storage",
    "pvera.metrics",
    "pvera.rows",
    "pvera.models",
    "pvera.exchange",
    "pvera.loggers",
    "pvera.command",
    "pvera.config",
    "pvera.overrides",
    "pvera.training",
    "pvera.sweeps",
    "pvera.plots",
    "pvera.tables",
    "pvera.evaluators",
    "pvera.report",
    "pvera.__main__ pvera.ablation pvera.evaluate pvera.export pvera.ood pvera.plan pvera.predict pvera.runs pvera.segment pvera.table "
    "pvera.uncertainty pvera.report.__main__",
]
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms.split()}


def modules() -> dict[str, Path]:
    """Every module of the three packages by its dotted name."""
    paths = [path for package in ("adapters", "data", "pvera") for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


def imported(name: str) -> set[str]:
    """The modules of the project that a module names in an import, wherever in it the import stands."""
    names = set()
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [node.module])])
            names |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
    return {other for other in names if other in MODULES and other != name}


ARROWS = {name: imported(name) for name in MODULES}


def height(name: str) -> int:
    """The layer of a module: that of the longest prefix that is listed."""
    while name not in HEIGHT:
        name = name.rpartition(".")[0]
    return HEIGHT[name]


def test_no_module_imports_itself_in_a_circle():
    try:
        list(TopologicalSorter(ARROWS).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_adapters_and_data_know_neither_the_harness_nor_each_other():
    for package in ("adapters", "data"):
        strangers = {f"{name} -> {other}" for name in MODULES if name.split(".")[0] == package
                     for other in ARROWS[name] if other.split(".")[0] != package}  # fmt: skip
        assert not strangers


def test_no_arrow_points_upward():
    harness = [name for name in MODULES if name.split(".")[0] == "pvera"]
    upward = {f"{name} -> {other}" for name in harness for other in ARROWS[name]
              if other.split(".")[0] == "pvera" and height(other) > height(name)}  # fmt: skip
    assert not upward


def test_every_room_is_in_the_list():
    """A new file at the top of pvera/ is a command, or has a layer of its own."""
    rooms = {".".join(name.split(".")[:2]) for name in MODULES if name.startswith("pvera.")}
    assert rooms == {room for room in HEIGHT if room.count(".") == 1}
