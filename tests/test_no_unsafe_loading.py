"""No line of the program unpickles, evaluates or hands to a shell what it has read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SEARCHED = ("audit", "kernels", "benchmarks", "datasets", "docs", "examples")

# Modules that aren't imported, under any name.
MODULES = {
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "pickle",
    "shelve",
}
# Calls that run, or may run, what they are given.
CALLS = {
    "__import__",
    "builtins.compile",
    "builtins.eval",
    "builtins.exec",
    "compile",
    "eval",
    "exec",
    "os.popen",
    "os.system",
    "pandas.read_pickle",
    "runpy.run_module",
    "runpy.run_path",
    "torch.export.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.ops.load_library",
    "torch.package.PackageImporter",
    "torch.serialization.add_safe_globals",
    "yaml.full_load",
    "yaml.load",
    "yaml.unsafe_load",
}
# Calls that are safe with this argument only, written out.
ONLY_WITH = dict.fromkeys(("torch.load", "torch.serialization.load"), ("weights_only", True))
# Arguments that no call may have with another value than this one, written out.
HARMLESS_VALUES = {"allow_pickle": False, "shell": False, "weights_only": True}
NAMED_BY_A_STRING = ("getattr", "import_module")
# Where, what → why.
ALLOWED = {
    ("audit/weights.py", "pickle"): "the class of the error that torch.load raises",
    ("audit/torchscript.py", "torch.jit.load"): "model.ts; see audit.torchscript and docs",
    ("audit/exporting.py", "torch.export.load"): "of bytes that this process has just written",
    ("benchmarks/models.py", "torch.export.load"): "model.pt2 of a bundle just exported",
}


def offences(source: str) -> Iterator[str]:
    """What a source imports or calls that it may not: its full name, aliases resolved."""
    tree = ast.parse(source)
    names = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in _modules(node):
                if name.split(".")[0] in MODULES:
                    yield name.split(".")[0]
        elif isinstance(node, ast.Call):
            yield from _offences_of_call(node, names)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            name = _full_name(node, names)
            # Not called here, it may be under another name elsewhere.
            if name in CALLS | set(ONLY_WITH) and not _is_called(tree, node):
                yield name


def _offences_of_call(node: ast.Call, names: dict[str, str]) -> Iterator[str]:
    name = _full_name(node.func, names)
    given = {each.arg: each.value for each in node.keywords}
    if name in CALLS:
        yield name
    if name in ONLY_WITH:
        argument, value = ONLY_WITH[name]
        if not _is(given.get(argument), value):
            yield name
    for argument, value in HARMLESS_VALUES.items():
        if argument in given and not _is(given[argument], value):
            yield argument
    if name.split(".")[-1] in NAMED_BY_A_STRING:
        for each in (*node.args, *given.values()):
            text = str(each.value).split(".")[0] if isinstance(each, ast.Constant) else ""
            if text in MODULES | {"eval", "exec", "system"}:
                yield text


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _is_called(tree: ast.AST, node: ast.expr) -> bool:
    return any(isinstance(each, ast.Call) and each.func is node for each in ast.walk(tree))


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [each.name for each in node.names]


def _imported(tree: ast.AST) -> dict[str, str]:
    """Name in the source → what it stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                if each.asname:
                    names[each.asname] = each.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:
                names[each.asname or each.name] = f"{node.module}.{each.name}"
    return names


def _full_name(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_full_name(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def sources() -> Iterator[tuple[str, str]]:
    """Path and content of every piece of Python: modules, and blocks in Markdown."""
    for folder in SEARCHED:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"^```py(?:thon)?\n(.*?)^```", path.read_text(), re.M | re.S):
            yield path.relative_to(ROOT).as_posix(), block


def test_nothing_unsafe() -> None:
    found = {(path, name) for path, source in sources() for name in offences(source)}
    assert found == set(ALLOWED)


def test_every_part_is_searched() -> None:
    paths = {path for path, _ in sources()}
    assert {path.split("/")[0] for path in paths} >= {*SEARCHED, "README.md"}
    assert {"audit/weights.py", "audit/cli/scan.py", "kernels/audit_kernels/cpu.py"} <= paths


PLANTED = {
    "torch.load(p)": ["torch.load"],
    "torch.load(p, weights_only=False)": ["torch.load", "weights_only"],
    "torch.load(p, weights_only=safe)": ["torch.load", "weights_only"],
    "torch.load(p, **options)": ["torch.load"],
    "torch.load(p, None, pickle)": ["torch.load"],
    "from torch import load as read\nread(p)": ["torch.load"],
    "import torch as t\nt.load(p)": ["torch.load"],
    "import torch\nread = torch.load": ["torch.load"],
    "from torch.serialization import add_safe_globals\nadd_safe_globals([A])": [
        "torch.serialization.add_safe_globals"
    ],
    "import torch.jit as j\nj.load(p)": ["torch.jit.load"],
    "from torch import jit\njit.load(p)": ["torch.jit.load"],
    "from torch.export import load\nload(p)": ["torch.export.load"],
    "Model.load_from_checkpoint(p, weights_only=False)": ["weights_only"],
    "import pickle": ["pickle"],
    "import pickle as harmless": ["pickle"],
    "from pickle import loads": ["pickle"],
    "def f():\n    from dill import load": ["dill"],
    "import joblib.numpy_pickle": ["joblib"],
    "import shelve, marshal": ["shelve", "marshal"],
    "importlib.import_module('pickle')": ["pickle"],
    "__import__('os')": ["__import__"],
    "np.load(p, allow_pickle=True)": ["allow_pickle"],
    "np.load(p, allow_pickle=flag)": ["allow_pickle"],
    "eval(text)": ["eval"],
    "exec(text)": ["exec"],
    "compile(text, p, 'exec')": ["compile"],
    "import builtins as b\nb.eval(text)": ["builtins.eval"],
    "list(map(eval, texts))": ["eval"],
    "getattr(builtins, 'eval')(text)": ["eval"],
    "import yaml\nyaml.load(text)": ["yaml.load"],
    "from yaml import load\nload(text, Loader)": ["yaml.load"],
    "subprocess.run(text, shell=True)": ["shell"],
    "os.system(text)": ["os.system"],
    "from os import system as s\ns(text)": ["os.system"],
}
HARMLESS = [
    "torch.load(p, map_location='cpu', weights_only=True)",
    "np.load(p)",
    "np.load(p, allow_pickle=False)",
    "json.load(file)",
    "yaml.safe_load(text)",
    "re.compile(pattern)",
    "torch.compile(model)",
    "model.eval()",
    "subprocess.run(['ls'], shell=False)",
    "# torch.load(p)\n'pickle.loads'",
]


@pytest.mark.parametrize("source", PLANTED)
def test_what_is_planted_is_found(source: str) -> None:
    assert list(offences(source)) == PLANTED[source]


@pytest.mark.parametrize("source", HARMLESS)
def test_what_is_harmless_is_let_be(source: str) -> None:
    assert list(offences(source)) == []
