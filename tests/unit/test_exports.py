"""What core exports: every name is there, and only what was asked for is loaded."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import core

ROOT = Path(__file__).resolve().parents[2]


def in_a_fresh_interpreter(code: str) -> object:
    """What the code prints, as JSON."""
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def test_each_exported_name_is_what_its_module_calls_by_it() -> None:
    code = (
        "import core, json, sys; from importlib import import_module\n"
        "print(json.dumps([name for name in core.__all__"
        " if getattr(core, name) is not getattr(import_module(core._HOMES[name]), name)]))"
    )
    assert in_a_fresh_interpreter(code) == []


def test_type_checkers_see_what_is_exported() -> None:
    imported = {
        (node.module, alias.name)
        for node in ast.walk(ast.parse(Path(core.__file__).read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("core.")
        for alias in node.names
    }
    exported = {(module, name) for module, names in core._EXPORTS.items() for name in names}
    assert imported == exported
    assert sorted(core.__all__) == sorted(name for _, name in exported)


def test_a_name_that_is_not_exported_is_told() -> None:
    code = "import core, json\ntry: core.nothing\nexcept AttributeError as error: print(json.dumps(str(error)))"
    assert in_a_fresh_interpreter(code) == "module 'core' has no attribute 'nothing'"


def test_who_asks_for_ranges_does_not_load_the_engine() -> None:
    code = "import json, sys; from core import Ranges; print(json.dumps([m for m in sys.modules if 'protobuf' in m]))"
    assert in_a_fresh_interpreter(code) == []
