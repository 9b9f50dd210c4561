"""What a call leaves open: `audit.toml`, `[tool.audit]`, the environment, the dataset say it."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from audit.errors import BundleNotFoundError, OptionError
from audit.options import DEVICES, ScanOptions

MODEL_VARIABLE = "AUDIT_MODEL"
WAYS = (
    f"name one with --model, {MODEL_VARIABLE}, 'model' in audit.toml, or the file's attribute "
    "'audit_bundle'"
)
EXPECTED = {
    "model": "the path of a bundle, or mnist, which ships",
    "eps": "a number, such as 0.1",
    "min_logit": "a number, such as 2.5",
    "device": f"one of {', '.join(DEVICES)}",
    "images": "the name of the samples in the file",
    "labels": "the name of the labels in the file",
    "gates": "a table",
}
NUMBERS = ("eps", "min_logit")
LONG = 2**63  # integers from here on are beyond TOML, and Python refuses to print the longest


class Setting(NamedTuple):
    """A value, and in words where it is from."""

    value: Any
    source: str


@dataclass(frozen=True)
class Config:
    """What is configured.

    Attributes:
        values: By key, the gates excepted.
        gates: By name, as TOML has them.
    """

    values: Mapping[str, Setting]
    gates: Mapping[str, Setting]


class _Place(NamedTuple):
    """A file, and the table in it that is ours."""

    file: str
    table: tuple[str, ...] = ()


PLACES = (_Place("pyproject.toml", ("tool", "audit")), _Place("audit.toml"))  # the last one wins


def load_config(folder: Path = Path()) -> Config:
    """What `audit.toml` sets, and below it `[tool.audit]` of `pyproject.toml`, key by key.

    Args:
        folder: Where the files are looked for; neither need be there.

    Raises:
        OptionError: A file can't be read, has a key that there isn't, or a value that can't be.
    """
    values: dict[str, Setting] = {}
    gates: dict[str, Setting] = {}
    for place in PLACES:
        path = folder / place.file
        source = f"{path} [{'.'.join(place.table)}]" if place.table else str(path)
        for key, value in _table(path, place.table).items():
            _check_key(source, "", key, tuple(EXPECTED))
            if key == "gates":
                gates |= _gates(source, value)
            else:
                values[key] = Setting(_checked(source, key, value), source)
    return Config(values, gates)


def effective(config: Config) -> Config:
    """Every key: the environment above what is configured, the program's defaults below it."""
    from audit.gates import DEFAULTS, KNOWN

    defaults = {field.name: field.default for field in dataclasses.fields(ScanOptions)}
    values = {key: Setting(defaults.get(key), "default") for key in EXPECTED if key != "gates"}
    values["eps"] = Setting(None, "not set")
    values["model"] = Setting(None, "not set: the dataset's attribute audit_bundle")
    values |= config.values
    if os.environ.get(MODEL_VARIABLE):
        values["model"] = Setting(os.environ[MODEL_VARIABLE], f"environment {MODEL_VARIABLE}")
    gates = {name: Setting(value, "default") for name, value in DEFAULTS.items()}
    gates |= config.gates
    return Config(values, {name: gates[name] for name in KNOWN if name in gates})


def find_model(model: str | os.PathLike[str] | None, dataset: str, attribute: str | None) -> str:
    """The bundle to scan with: the argument, else the environment, the configuration, the file.

    Args:
        model: What the call names.
        dataset: Path of the dataset.
        attribute: Its attribute `audit_bundle`: a shipped bundle's name, or a path from the
            dataset's folder down. A dataset may come from a stranger, so it can't point elsewhere.

    Raises:
        BundleNotFoundError: None is named, or the attribute points outside the dataset's folder.
        OptionError: The configuration can't be read, or is wrong.
    """
    from audit.bundle import SHIPPED_NAMES

    named = os.fspath(model) if model is not None else os.environ.get(MODEL_VARIABLE)
    if named:
        return named
    configured = load_config().values.get("model")
    if configured is not None:
        return str(configured.value)
    if not attribute:
        raise BundleNotFoundError(f"{dataset}: no model to scan with; {WAYS}")
    if attribute in SHIPPED_NAMES:
        return attribute
    inner = PurePosixPath(attribute)
    if inner.is_absolute() or ".." in inner.parts:
        raise BundleNotFoundError(
            f"{dataset}: its attribute 'audit_bundle' is {attribute!r}, which leads out of its "
            f"folder; {WAYS}"
        )
    return str(Path(dataset).parent / inner)


def text_from_value(value: Any) -> str:
    """About as TOML has it, in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= LONG:
        return f"{value:#x}"[:20] + "…"
    if isinstance(value, dict):
        pairs = (f"{_key(key)} = {text_from_value(each)}" for key, each in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(text_from_value, value))}]"
    return repr(value) if isinstance(value, str | float | int) else str(value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else repr(key)


def _table(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The table of these names in a TOML file; empty where either isn't there."""
    import tomllib

    if not os.path.lexists(path):
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as exc:  # ValueError: of TOML, UTF-8, long numbers
        raise OptionError(f"{path}: not TOML that can be read ({exc})") from exc
    for name in names:
        table = table.get(name, {})
        if not isinstance(table, dict):
            raise OptionError(f"{path}: {'.'.join(names)} is not a table")
    return table


def _check_key(source: str, prefix: str, key: str, known: tuple[str, ...]) -> None:
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {prefix + near[0]!r}?" if near else ""
    raise OptionError(
        f"{source}: unknown key {prefix + key!r}; expected one of {', '.join(known)}{hint}"
    )


def _checked(source: str, key: str, value: Any) -> Any:
    if key in NUMBERS:
        fits = _is_number(value)
    else:
        fits = isinstance(value, str) and value != "" and "\0" not in value
    if not fits:
        raise OptionError(f"{source}: {key} is {text_from_value(value)}; expected {EXPECTED[key]}")
    if key == "model":
        return value
    given: dict[str, Any] = {"eps": 1.0, key: float(value) if key in NUMBERS else value}
    try:
        ScanOptions(**given)
    except OptionError as exc:
        mistake = str(exc).replace(f"--{key.replace('_', '-')}", key)
        raise OptionError(f"{source}: {mistake}") from exc
    return given[key]


def _gates(source: str, table: Any) -> dict[str, Setting]:
    """What each gate is set to; `audit.gates.thresholds` judges whether it can be."""
    from audit.gates import KNOWN

    if not isinstance(table, dict):
        raise OptionError(
            f"{source}: gates is {text_from_value(table)}; expected {EXPECTED['gates']}, such as "
            "[gates] and under it max_rate = 0.002"
        )
    for name, value in table.items():
        _check_key(source, "gates.", name, KNOWN)
        if not _is_gate(value):
            raise OptionError(
                f"{source}: gates.{name} is {text_from_value(value)}; expected a number, true, "
                "false, or a table of them"
            )
    return {name: Setting(value, source) for name, value in table.items()}


def _is_gate(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_gate, value.values()))
    return isinstance(value, bool) or (_is_number(value) and math.isfinite(value))


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LONG
    return whole or isinstance(value, float)
