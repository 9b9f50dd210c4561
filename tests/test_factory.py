"""`file.py:name` and `package.module:name`, good and bad."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from audit.errors import ModelError
from audit.factory import model_from_factory

NETS = """
from torch import nn
from neighbour_of_nets import features

class Network(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(features(), 2))

class Wide(nn.Linear):
    pass

def build():
    return Network()

def needs(width, classes=3):
    return nn.Linear(width, classes)

def forgets():
    Network()

def breaks():
    return nn.Linear(*[1, 2, 3, 4, 5, 6, 7, 8])

def misses_a_file():
    open("no-such-file.txt")

instance = nn.Linear(5, 2)
number = 5
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nets in a file with a neighbour, and in a package; the import system is put back after."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path / "elsewhere", tmp_path):
        place.mkdir(exist_ok=True)
        (place / "nets.py").write_text(NETS)
        (place / "neighbour_of_nets.py").write_text("def features(): return 7")
    package = tmp_path / "package_of_nets"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "small.py").write_text("from nets import Network as Small, instance")
    (package / "lacks.py").write_text("import no_such_dependency")
    (tmp_path / "lacks.py").write_text("import torch\nimport no_such_dependency\n")
    (tmp_path / "typo.py").write_text("def build(:\n")
    return tmp_path


@pytest.mark.parametrize(
    "spec",
    [
        "nets.py:build",
        "nets.py:Network",
        "nets.py:instance",
        "./nets.py:build",
        "elsewhere/nets.py:build",
        "elsewhere/../nets.py:build",
        "nets:build",
        "package_of_nets.small:Small",
        "package_of_nets.small:instance",
    ],
)
def test_made(spec: str) -> None:
    model = model_from_factory(spec)
    assert isinstance(model, nn.Module)
    linear = model if isinstance(model, nn.Linear) else model[0]  # type: ignore[index]
    assert linear.weight.shape == (2, 5 if spec.endswith("instance") else 7)


def test_absolute_path_from_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert isinstance(model_from_factory(f"{folder}/elsewhere/nets.py:build"), nn.Sequential)


def test_a_file_of_a_name_in_use(folder: Path) -> None:
    before = sys.modules["audit"], sys.modules["torch"]
    for name in ("audit.py", "torch.py"):
        (folder / name).write_text((folder / "nets.py").read_text())
        assert isinstance(model_from_factory(f"{name}:build"), nn.Sequential)
    assert (sys.modules["audit"], sys.modules["torch"]) == before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nets.py", "nets.py: expected package.module:name or file.py:name"),
        ("nets.py:", "nets.py:: expected package.module:name or file.py:name"),
        (":build", ":build: expected package.module:name or file.py:name"),
        ("", ": expected package.module:name or file.py:name"),
        (".nets:build", ".nets:build: expected package.module:name or file.py:name"),
        ("..:build", "..:build: expected package.module:name or file.py:name"),
        ("absent.py:build", "absent.py: no such file; expected file.py:name"),
        ("elsewhere:build", "elsewhere: no 'build'; found nothing to call"),
        ("absent:build", "absent: no such module; expected one that can be imported from here"),
        ("nets.absent:build", "nets.absent: no such module; expected one"),
        ("package_of_nets.absent:build", "package_of_nets.absent: no such module; expected one"),
        ("a..b:build", "a..b: no such module"),
        ("dir/nets:build", "dir/nets: no such module; expected one that can be imported from"),
        ("nets.py:absent", "nets.py: no 'absent'; found features, Network, Wide, build, needs"),
        ("nets.py:number", "nets.py:number: not callable; expected a function that returns the"),
        ("nets.py:needs", "missing 1 required positional argument: 'width'; expected a callable"),
        ("nets.py:Wide", "'in_features' and 'out_features'; expected a callable without arg"),
        ("nets.py:forgets", "nets.py:forgets: returned NoneType; expected an nn.Module"),
        ("nets.py:features", "nets.py:features: returned int; expected an nn.Module"),
        ("nets.py:breaks", "nets.py:breaks: "),
        ("nets.py:misses_a_file", "raised FileNotFoundError: [Errno 2] No such file or directory"),
        ("lacks.py:build", "lacks.py: raised ModuleNotFoundError: No module named 'no_such_depen"),
        ("lacks.py:build", f"{Path('lacks.py')}, line 2); it must run as it is"),
        ("package_of_nets.lacks:f", "raised ModuleNotFoundError: No module named 'no_such_depend"),
        ("typo.py:build", "typo.py: raised SyntaxError: invalid syntax (typo.py, line 1)"),
    ],
)
def test_refused(spec: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        model_from_factory(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
