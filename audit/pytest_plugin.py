"""Near ties as tests: the marker `near_ties` and the fixture `audit_scan`; see `docs/pytest.md`.

pytest loads this at every start, also in projects that don't use it: it imports nothing heavy.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from audit.errors import AuditError

if TYPE_CHECKING:
    from audit.check import CheckResult, GateResult
    from audit.findings import Findings

MARKER = "near_ties"
SIGNATURE = (
    f"{MARKER}(dataset, *, eps, model=None, baseline=None, max_rate=…, max_count=…, …): scan the "
    "dataset and fail the test where a gate of 'audit check' fails. Further arguments: options of "
    "audit.scan, and gates by their name."
)
PLACES = ("out", "progress")  # the plugin's to choose
BROKEN = pytest.StashKey[list[str]]()
MISUSED = pytest.StashKey[str]()


class NearTieWarning(pytest.PytestWarning):
    """A gate that warns."""


class AuditScan:
    """`audit.scan`, once a session for the same arguments; what the fixture `audit_scan` is."""

    def __init__(self, root: Path, folder: Callable[[], Path]) -> None:
        self._root = root
        self._folder = folder
        self._made: dict[tuple[object, ...], Findings] = {}

    def __call__(
        self,
        dataset: str | os.PathLike[str],
        *,
        eps: float,
        model: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Findings:
        """Scan, or take what the same call gave earlier in this session.

        Args:
            dataset: HDF5 file; relative to pytest's rootdir.
            eps: Near-tie threshold ε in logit units.
            model: Bundle, relative to the rootdir, or the name of a shipped one; None: found as
                `audit scan` finds it when it is started in the rootdir.
            **options: Others of `audit.scan`, but for `out` and `progress`.

        Raises:
            AuditError: As `audit.scan` does.
        """
        import audit
        from audit.bundle import SHIPPED_NAMES
        from audit.config import MODEL_VARIABLE, load_config
        from audit.errors import DatasetNotFoundError

        path = self.path(dataset)
        if not path.exists():
            raise DatasetNotFoundError(
                f"{os.fspath(dataset)}: no such file in {self._root}, pytest's rootdir; name it "
                "from there, or by an absolute path"
            )
        if model is None and not os.environ.get(MODEL_VARIABLE):
            configured = load_config(self._root).values.get("model")
            model = None if configured is None else configured.value
        if model is not None and os.fspath(model) not in SHIPPED_NAMES:
            model = self.path(model)
        key = (path, eps, model, *sorted((name, repr(value)) for name, value in options.items()))
        if key not in self._made:
            out = self._folder() / f"{path.stem}.findings.h5"
            self._made[key] = audit.scan(path, eps=eps, model=model, out=out, **options)
        return self._made[key]

    def path(self, path: str | os.PathLike[str]) -> Path:
        """From the rootdir."""
        return self._root / path


@pytest.fixture(scope="session")
def audit_scan(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> AuditScan:
    """Scan a dataset, once a session for the same arguments: a function that returns findings."""
    return AuditScan(pytestconfig.rootpath, lambda: tmp_path_factory.mktemp(MARKER))


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", SIGNATURE)


@pytest.hookimpl(trylast=True)  # what is deselected isn't looked at
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the markers' arguments, before anything runs, and give their tests the fixture."""
    for item in items:
        marks = list(item.iter_markers(MARKER))
        if not marks:
            continue
        wrong = _wrong_use(item, marks)
        if wrong is not None:
            if not hasattr(config, "workerinput"):
                raise pytest.UsageError(wrong)
            item.stash[MISUSED] = wrong  # a usage error in its worker crashes pytest-xdist
        elif isinstance(item, pytest.Function) and audit_scan.__name__ not in item.fixturenames:
            item.fixturenames.append(audit_scan.__name__)


@pytest.hookimpl(trylast=True)  # after the fixtures, and after what skips a test
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Scan and judge: what can't be judged is an error of the test's setup."""
    if MISUSED in item.stash:
        pytest.fail(item.stash[MISUSED], pytrace=False)
    marks = list(item.iter_markers(MARKER))
    if not (marks and isinstance(item, pytest.Function)):
        return
    scan = item.funcargs.get(audit_scan.__name__)
    if not isinstance(scan, AuditScan):  # pytest --setup-plan
        return
    broken, reason = [], None
    try:
        for mark in marks:
            result = _check(scan, mark)
            _warn(item, result)
            if result.status == "FAIL":
                broken.append(_message(result))
    except AuditError as exc:
        reason = f"{MARKER}: {exc}"
    except NearTieWarning as exc:  # where pytest makes errors of warnings
        reason = str(exc)
    if reason is not None:
        pytest.fail(reason, pytrace=False)
    item.stash[BROKEN] = broken


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Fail in place of the test's body."""
    broken = item.stash.get(BROKEN, [])
    if broken:
        pytest.fail("\n\n".join(broken), pytrace=False)


def _wrong_use(item: pytest.Item, marks: list[pytest.Mark]) -> str | None:
    """What is wrong with the markers of a test; None: nothing."""
    if not isinstance(item, pytest.Function):
        return f"{item.nodeid}: {MARKER} is for test functions"
    for mark in marks:
        reason = _wrong_arguments(mark)
        if reason is not None:
            return f"{item.nodeid}: {MARKER}: {reason}"
    return None


def _wrong_arguments(mark: pytest.Mark) -> str | None:
    from inspect import signature

    import audit
    from audit.gates import KNOWN

    if len(mark.args) > 1 or (mark.args and "dataset" in mark.kwargs):
        return "expected one dataset, and all else by name"
    scan_options = [name for name in signature(audit.scan).parameters if name not in PLACES]
    known = [*scan_options, "baseline", *KNOWN]
    for name in mark.kwargs:
        if name not in known:
            return f"unknown argument {name!r}{_nearest(name, known)}"
    given = {*mark.kwargs, *(["dataset"] if mark.args else [])}
    for name, example in (("dataset", "'mnist.h5'"), ("eps", "0.1")):
        if name not in given:
            return f"no {name}; add {name}={example}"
    return None


def _nearest(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; expected of {', '.join(known)}"


def _check(scan: AuditScan, mark: pytest.Mark) -> CheckResult:
    """Judge the findings by the marker's gates.

    Raises:
        AuditError: There is nothing to judge, or a gate can't be computed.
    """
    import audit
    from audit.errors import FindingsError
    from audit.gates import KNOWN

    given = dict(mark.kwargs)
    gates = {name: given.pop(name) for name in KNOWN if name in given}
    baseline = given.pop("baseline", None)
    if given.get("limit") is not None:  # who asks for a part doesn't expect the whole
        gates.setdefault("complete", False)
    result = audit.check(
        scan(*mark.args, **given),
        gates=gates,
        baseline=None if baseline is None else scan.path(baseline),
    )
    unknown = [f"{each.name}: {each.message}" for each in result.results if each.status == "ERROR"]
    if unknown:
        raise FindingsError("; ".join(unknown))
    return result


def _warn(item: pytest.Item, result: CheckResult) -> None:
    for each in result.results:
        if each.status == "WARN":
            item.warn(NearTieWarning(f"{MARKER}: {_shown(each)}"))


def _message(result: CheckResult) -> str:
    """The gates that failed, the closest ties, and where to look closer."""
    from audit.summary import summary_from_findings, text_from_summary

    failed = [_shown(each) for each in result.results if each.status == "FAIL"]
    path = result.findings.path
    return "\n".join(
        [
            *(f"{MARKER}: {each}" for each in failed),
            "",
            text_from_summary(summary_from_findings(result.findings)),
            f"look      audit report {path} -o report.html",
        ]
    )


def _shown(gate: GateResult) -> str:
    return f"{gate.name} is {gate.shown_value}, limit {gate.shown_limit}: {gate.message}"
