"""`package.module:name` or `file.py:name` → the network it makes."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from audit.errors import ModelError

if TYPE_CHECKING:
    from torch import nn


def model_from_factory(spec: str) -> nn.Module:
    """Import and call the factory.

    Raises:
        ModelError: There is no such factory, or it needs arguments, or it doesn't make a module.
    """
    from torch import nn

    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name or (where[0] == "." and not where.endswith(".py")):
        raise ModelError(f"{spec}: expected package.module:name or file.py:name")
    module = _module_from_file(Path(where)) if where.endswith(".py") else _module_named(where)
    factory = getattr(module, name, None)
    if factory is None:
        known = [key for key, each in vars(module).items() if callable(each) and key[0] != "_"]
        raise ModelError(f"{where}: no {name!r}; found {', '.join(known) or 'nothing to call'}")
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise ModelError(f"{spec}: not callable; expected a function that returns the nn.Module")
    try:
        model = factory()
    except TypeError as exc:
        raise ModelError(
            f"{spec}: {exc}; expected a callable without arguments: write a function that "
            "returns the network as it was trained"
        ) from exc
    except Exception as exc:
        raise _raised(spec, exc) from exc
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec}: returned {type(model).__name__}; expected an nn.Module")
    return model


def _module_from_file(path: Path) -> ModuleType:
    if not os.path.isfile(path):
        raise ModelError(f"{path}: no such file; expected file.py:name")
    # Under its own name, unless that is one in use (audit.py, torch.py), and with its folder
    # importable, so that its neighbours can be imported.
    name = f"factory_{path.stem}" if path.stem in sys.modules else path.stem
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        raise _raised(str(path), exc) from exc
    return module


def _module_named(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise ModelError(
                f"{name}: no such module; expected one that can be imported from here, or file.py"
            ) from exc
        raise _raised(name, exc) from exc
    except Exception as exc:
        raise _raised(name, exc) from exc


def _raised(where: str, exc: Exception) -> ModelError:
    frame = traceback.extract_tb(exc.__traceback__)[-1]
    return ModelError(
        f"{where}: raised {type(exc).__name__}: {exc} ({frame.filename}, line {frame.lineno}); it "
        "must run as it is, without arguments"
    )
