"""Gates as they are set, checked: what is read from TOML, `--gate` or a mapping."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from audit.config import Setting, text_from_value
from audit.errors import OptionError
from audit.gates.kinds import DEFAULTS, GATES, LEVEL, Kind

MANY = 2**53  # counts from here on are no whole numbers of a float64
EXPECTED = {
    "count": "a whole number, from 0",
    "share": "a share of the samples, 0 to 1",
    "points": "a difference of rates, 0 to 1",
    "growth": "a share of the old rate, from 0 (0.5: half as many again)",
    "distance": "a distance in input space, from 0",
    "logits": "a difference of logits, from 0",
}
FORMS = " (or { warn = …, fail = … } with either or both, or false: no such gate)"
FLAG = "true, { warn = true } or false"


class Limits(NamedTuple):
    """From where a gate warns and from where it fails; None: never."""

    warn: float | None = None
    fail: float | None = None

    @property
    def on(self) -> bool:
        """Whether there is anything to judge."""
        return self != (None, None)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A gate as it is set.

    Attributes:
        name: A key of `GATES`.
        limits: Of all samples together, or of each class or pair that `named` doesn't have.
        n: Of which distance, from the smallest; of gates that have it.
        named: Class name → limits; or, of a pair, "NAME/NAME" → limits.
    """

    name: str
    limits: Limits
    n: int = 1
    named: Mapping[str, Limits] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """What it measures."""
        return GATES[self.name]


@dataclass(frozen=True, kw_only=True)
class Gates:
    """All that are on, in the order they are judged, and the level of their exact tests."""

    gates: tuple[Gate, ...]
    level: float


def read_gates(settings: Mapping[str, Setting]) -> Gates:
    """Check what is set; what isn't is as in `DEFAULTS`.

    Args:
        settings: Key of the table of gates → value as TOML has it, and where it is from.

    Raises:
        OptionError: There is no such gate, or the value can't be.
    """
    for name, setting in settings.items():
        check_known(name, (*GATES, LEVEL), f"{setting.source}: no gate {name!r}")
    default = {name: Setting(value, "default") for name, value in DEFAULTS.items()}
    settings = default | dict(settings)
    gates = [_gate(name, settings[name]) for name in GATES if name in settings]
    return Gates(
        gates=tuple(gate for gate in gates if gate is not None),
        level=_level(settings[LEVEL]),
    )


def check_known(name: object, known: Iterable[str], problem: str) -> None:
    """Raise `OptionError` with the nearest known name, unless it is one of them."""
    names = list(known)
    if name in names:
        return
    near = difflib.get_close_matches(str(name)[:100], names, n=1, cutoff=0.5)
    raise OptionError(f"{problem}; " + (f"is {near[0]} meant?" if near else "see docs/gates.md"))


def _level(setting: Setting) -> float:
    value = setting.value
    if _is_number(value) and 0 < value < 1:
        return float(value)
    raise _wrong(LEVEL, setting, "a significance level between 0 and 1, such as 0.01")


def _gate(name: str, setting: Setting) -> Gate | None:
    """The gate; None where it is off."""
    kind, value = GATES[name], setting.value
    if kind.unit == "flag":
        return _flag(name, setting)
    if isinstance(value, Mapping):
        gate = _from_table(name, kind, setting)
    else:
        gate = Gate(name=name, limits=_limits(name, setting))
    return gate if gate.limits.on or any(limits.on for limits in gate.named.values()) else None


def _flag(name: str, setting: Setting) -> Gate | None:
    """A gate that has no number: what is missing may be 0."""
    value = setting.value
    if value is False:
        return None
    if value is True:
        return Gate(name=name, limits=Limits(fail=0))
    if isinstance(value, Mapping) and value and all(each is True for each in value.values()):
        for key in value:
            check_known(key, ("warn", "fail"), f"{setting.source}: {name}: no setting {key!r} here")
        return Gate(name=name, limits=Limits(fail=0) if "fail" in value else Limits(warn=0))
    raise _wrong(name, setting, FLAG)


def _from_table(name: str, kind: Kind, setting: Setting) -> Gate:
    table: dict[str, Any] = dict(setting.value)
    plural = {"class": "classes", "pair": "pairs"}.get(kind.of)
    known = ["warn", "fail", *(["n"] if kind.nth else []), *([plural] if plural else [])]
    for key in table:
        check_known(key, known, f"{setting.source}: {name}: no setting {key!r} of this gate")
    if not any(table.get(key, {}) != {} for key in known if key != "n"):
        raise _wrong(name, setting, EXPECTED[kind.unit] + FORMS)
    n = table.get("n", 1)
    if not (isinstance(n, int) and not isinstance(n, bool) and 1 <= n < MANY):
        raise _wrong(f"{name}.n", Setting(n, setting.source), "which distance, from 1: the least")
    named = table.get(plural, {}) if plural else {}
    if not isinstance(named, Mapping):
        key = "NAME" if kind.of == "class" else '"NAME/NAME"'
        raise _wrong(
            f"{name}.{plural}", Setting(named, setting.source), f"a table, such as {{ {key} = 1 }}"
        )
    return Gate(
        name=name,
        limits=_warn_and_fail(name, table, setting.source),
        n=n,
        named={
            str(key): _limits(name, Setting(value, f"{setting.source}: {plural}[{key}]"))
            for key, value in named.items()
        },
    )


def _limits(name: str, setting: Setting) -> Limits:
    value = setting.value
    if value is False:
        return Limits()
    if isinstance(value, Mapping) and value:
        known = f"{setting.source}: {name}: no setting"
        for key in value:
            check_known(key, ("warn", "fail"), f"{known} {key!r} here")
        return _warn_and_fail(name, value, setting.source)
    return Limits(fail=_limit(name, setting))


def _warn_and_fail(name: str, table: Mapping[str, Any], source: str) -> Limits:
    """The limits in a table; the warning's has to be reached first, or it would never show."""
    warn, fail = (
        None if table.get(key, False) is False else _limit(name, Setting(table[key], source), key)
        for key in ("warn", "fail")
    )
    if warn is not None and fail is not None:
        late = warn < fail if name.startswith("min_") else warn > fail
        if late:
            side = "at least" if name.startswith("min_") else "at most"
            raise OptionError(
                f"{source}: {name}: warn = {text_from_value(table['warn'])} comes after fail = "
                f"{text_from_value(table['fail'])}; expected a warning of {side} that"
            )
    return Limits(warn, fail)


def _limit(name: str, setting: Setting, key: str = "") -> float:
    unit, value = GATES[name].unit, setting.value
    most = {"share": 1.0, "points": 1.0, "count": float(MANY)}.get(unit, sys.float_info.max)
    if _is_number(value) and 0 <= value <= most:  # NaN, too, is neither
        whole = isinstance(value, int) or value == int(value)
        if unit != "count":
            return float(value)
        if whole:
            return int(value)
    raise _wrong(f"{name}.{key}" if key else name, setting, EXPECTED[unit] + FORMS * (not key))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong(name: str, setting: Setting, expected: str) -> OptionError:
    return OptionError(
        f"{setting.source}: {name} is {text_from_value(setting.value)}; expected {expected}"
    )
