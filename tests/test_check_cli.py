"""`audit check` as CI runs it."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from conftest import Run
from nights import Tie, ties, write_night

ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "COLUMNS")
}
ON_GITHUB = ENVIRONMENT | {"GITHUB_ACTIONS": "true"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six near ties on the first night, eight on the second, thirty on the third."""
    write_night(tmp_path / "first.h5", ties(*range(6)))
    write_night(tmp_path / "second.h5", ties(*range(3, 11)))
    write_night(tmp_path / "third.h5", ties(*range(30)))
    return tmp_path


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("first.h5",), 0),
        (("second.h5", "--baseline", "first.h5"), 0),
        (("third.h5", "--baseline", "first.h5"), 1),
        (("third.h5", "--baseline", "first.h5", "--gate", "max_rate_increase=false"), 0),
        (("third.h5", "--baseline", "first.h5", "--gate", "max_rate_increase=0.005"), 0),
        (("second.h5", "--baseline", "first.h5", "--level", "0.5"), 1),
        (("first.h5", "--gate", "max_count=5"), 1),
        (("first.h5", "--gate", "max_count={warn=5}"), 0),
        (("first.h5", "--gate", "max_count={warn=5}", "--warn-as-fail"), 1),
        (("first.h5", "--gate", "max_count={warn=6}", "--warn-as-fail"), 0),
        (("first.h5", "--gate", "max_pair_count={pairs={'x/y'=1}}"), 2),
        (("first.h5", "--gate", "max_count=5", "--gate", "max_count=6"), 0),  # the last counts
        (("first.h5", "--baseline", "none.h5", "--allow-missing-baseline"), 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_exit_codes(args: tuple[str, ...], code: int, folder: Path, run_audit: Run) -> None:
    done = run_audit("check", *args, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (code, "")
    status = done.stdout.splitlines()[-1].partition(":")[0]
    assert (status in ("FAIL", "WARN"), status == "ERROR") == (
        code == 1 or "warn=5" in str(args),
        code == 2,
    )


def test_a_first_night_passes_and_says_so(folder: Path, run_audit: Run) -> None:
    args = ("--baseline", "none.h5", "--allow-missing-baseline")
    for more in ((), args):
        done = run_audit("check", "first.h5", *more, env=ENVIRONMENT)
        assert done.returncode == 0
        assert "no baseline: nothing to compare with" in done.stdout
        assert done.stdout.endswith("PASS: 4 gates passed; no baseline\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("none.h5",), "none.h5: no such file"),
        (("first.h5", "--baseline", "none.h5"), "none.h5: no such file"),
        (("audit.toml",), "audit.toml: "),
        (("first.h5", "--gate", "max_rate"), "--gate max_rate: expected NAME=VALUE"),
        (("first.h5", "--gate", "max_rat=1"), "--gate: no gate 'max_rat'; is max_rate meant?"),
        (("first.h5", "--gate", "max_rate=-1"), "--gate: max_rate is -1; expected a share"),
        (("first.h5", "--gate", "max_rate=x"), "--gate max_rate=x: the value isn't TOML"),
        (("first.h5", "--gate", "max_rate="), "the value isn't TOML"),
        (("first.h5", "--gate", "max_rate=1\nlevel=2"), "expected one value in one line"),
        (("first.h5", "--gate", "max_rate=" + "[" * 9999), "the value isn't TOML"),
        (("first.h5", "--level", "0"), "--level: level is 0.0; expected"),
        (("first.h5", "--level", "nan"), "--level: level is nan; expected"),
        (("first.h5", "--junit", "first.h5"), "first.h5: an HDF5 file; name another"),
        (("first.h5", "--markdown", "third.h5"), "third.h5: an HDF5 file; name another"),
        (("first.h5", "--junit", "x", "--markdown", "./x"), "--markdown ./x: is --junit's file"),
        (("first.h5", "--junit", "."), ".: a directory; name a file with --junit"),
        (("first.h5", "--junit", "no/j.xml"), "no/j.xml: can't be written"),
        ((), "Missing argument"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_mistakes(args: tuple[str, ...], message: str, folder: Path, run_audit: Run) -> None:
    (folder / "audit.toml").write_text("")
    done = run_audit("check", *args, env=ENVIRONMENT)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_configured_gates(folder: Path, run_audit: Run) -> None:
    (folder / "pyproject.toml").write_text("[tool.audit.gates]\nmax_count = 7\nmax_rate = 0.5\n")
    assert run_audit("check", "second.h5", env=ENVIRONMENT).returncode == 1
    (folder / "audit.toml").write_text("[gates]\nmax_count = { warn = 5, fail = 20 }\n")
    done = run_audit("check", "second.h5", "--json", env=ENVIRONMENT)
    assert done.returncode == 0
    gates = {gate["name"]: gate["status"] for gate in json.loads(done.stdout)["gates"]}
    assert (gates["max_count"], gates["max_rate"]) == ("WARN", "PASS")
    over = run_audit("check", "second.h5", "--gate", "max_count=8", env=ENVIRONMENT)
    assert "WARN" not in over.stdout
    (folder / "audit.toml").write_text("[gates]\nmax_count = -1\n")
    wrong = run_audit("check", "second.h5", env=ENVIRONMENT)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("Error: audit.toml: max_count is -1; expected a whole number")


def test_json_and_files(folder: Path, run_audit: Run) -> None:
    args = ("third.h5", "--baseline", "first.h5", "--junit", "j.xml", "--markdown", "m.md")
    done = run_audit("check", *args, "--json", env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (1, "")
    document = json.loads(done.stdout)
    assert (document["status"], document["baseline"]) == ("FAIL", "first.h5")
    assert document["gates"][-1]["value"] == 24 / 10_000
    root = ET.fromstring((folder / "j.xml").read_bytes())
    assert root.get("failures") == "1"
    assert (folder / "m.md").read_text().startswith("### ❌ audit check: FAIL")
    before = (folder / "m.md").read_text()
    quiet = run_audit("check", *args, "--quiet", env=ON_GITHUB)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (1, "", "")
    assert (folder / "m.md").read_text() == before  # written anew, not appended
    assert not list(folder.glob(".*.partial"))


def test_the_job_summary_is_appended_to(folder: Path, run_audit: Run) -> None:
    summary = folder / "summary"
    summary.write_text("of an earlier step\n")
    environment = ON_GITHUB | {"GITHUB_STEP_SUMMARY": str(summary)}
    for name in ("first.h5", "second.h5"):
        run_audit("check", name, "--markdown", summary, env=environment, check=True)
    text = summary.read_text()
    assert text.startswith("of an earlier step\n### ✅ audit check: PASS")
    assert text.count("### ✅ audit check") == 2


def test_on_github(folder: Path, run_audit: Run) -> None:
    args = ("check", "third.h5", "--baseline", "first.h5")
    plain = run_audit(*args, env=ENVIRONMENT)
    done = run_audit(*args, env=ON_GITHUB)
    assert done.stdout == plain.stdout
    errors, notice = done.stderr.splitlines()
    assert errors.startswith("::error title=FAIL max_rate_increase::+0.24 pp, expected ≤ 0 pp: ")
    assert notice.startswith("::notice title=audit check::FAIL: 1 gate failed")
    as_json = run_audit(*args, "--json", env=ON_GITHUB)
    assert json.loads(as_json.stdout)["status"] == "FAIL"
    assert as_json.stderr == done.stderr


def test_output_of_a_stranger(tmp_path: Path, run_audit: Run) -> None:
    names = ["##[add-mask]x", "::error::y", "\x1b[2Jz\r\n::stop-commands::a", "b" * 10_000]
    flagged = [Tie(i, a=i % 4, b=(i + 1) % 4, label=i % 4) for i in range(8)]
    write_night(tmp_path / "n.h5", flagged, classes=names)
    for more in ((), ("--json",)):
        gates = ("--gate", "max_class_count=0", "--gate", "max_pair_count=0")
        done = run_audit("check", "n.h5", *gates, *more, env=ON_GITHUB)
        assert done.returncode == 1
        assert "##[" not in done.stdout + done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        for line in done.stdout.splitlines():
            assert not line.lstrip().startswith("::")
        if more:
            assert "##[add-mask]x" in {
                gate["name"][len("max_class_count[") : -1]
                for gate in json.loads(done.stdout)["gates"]
            }
