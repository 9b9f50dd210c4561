"""The pytest plugin in projects of their own: real scans of the shipped bundle.

Where the process matters (start-up, workers, what a test changes for good), it is another one; else
the project's pytest runs in this one, which has torch already.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from audit.bundle import SHIPPED
from test_public import HEAVY

pytest_plugins = ["pytester"]

MNIST = 'dataset="mnist.h5", model="mnist", eps=0.1'
PART = f"{MNIST}, limit=1300"  # has three near ties
NUMBA = {"numba", "llvmlite", "lightning", "mlflow", "wandb"}


@pytest.fixture(scope="module")
def scanned(mnist_h5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped images' findings.

    It imports what a scan needs: pytester forgets modules that a run in this process imports, and
    torch can't be imported twice.
    """
    import audit

    path = tmp_path_factory.mktemp("scanned") / "old.h5"
    audit.check(audit.scan(mnist_h5, model="mnist", eps=0.1, out=path), gates={})
    return path


@pytest.fixture
def project(pytester: pytest.Pytester, mnist_h5: Path, scanned: Path) -> pytest.Pytester:
    """A repository with the shipped images, whose tests are strict."""
    (pytester.path / "mnist.h5").symlink_to(mnist_h5)
    # Hypothesis is imported anew, and rewritten, in each of these sessions: a second each.
    without = " ".join(
        f"-p no:{each}" for each in ("cacheprovider", "benchmark", "hypothesispytest")
    )
    pytester.makeini(f"[pytest]\naddopts = --strict-markers {without}")
    return pytester


def run(project: pytest.Pytester, tests: str, *args: str) -> pytest.RunResult:
    """The tests, with everything that is installed."""
    project.makepyfile(test_model=f"import pytest\n\n{tests}")
    return project.runpytest_inprocess("-W", "error", *args)


def run_apart(project: pytest.Pytester, tests: str, *args: str) -> pytest.RunResult:
    """The tests in a process of their own."""
    project.makepyfile(test_model=f"import pytest\n\n{tests}")
    return project.runpytest_subprocess("-W", "error", *args)


def text(result: pytest.RunResult) -> str:
    return result.stdout.str() + result.stderr.str()


MARKED = """
@pytest.mark.near_ties({arguments})
def test_it():
    {body}
"""


def marked(arguments: str, body: str = "print('the body ran')") -> str:
    return MARKED.format(arguments=arguments, body=body)


def test_gates_that_hold(project: pytest.Pytester) -> None:
    tests = marked(f"{MNIST}, max_rate=0.0012, max_count=12, min_accuracy=0.99")
    result = run_apart(project, tests, "-s")
    result.assert_outcomes(passed=1)
    assert "the body ran" in text(result)


def test_gate_that_fails(project: pytest.Pytester) -> None:
    """In place of the body, with what is needed to go on."""
    result = run_apart(
        project, marked(f"{MNIST}, max_rate=0.001, max_count=50, min_median_l2=1"), "-s"
    )
    result.assert_outcomes(failed=1)
    shown = text(result)
    assert "the body ran" not in shown
    assert "near_ties: max_rate is 0.12%, limit ≤ 0.1%: 12 near ties among 10,000" in shown
    assert "near_ties: min_median_l2 is 0.008636, limit ≥ 1" in shown
    assert "max_count" not in shown.replace(marked(""), "").partition("short test summary")[0]
    assert "Traceback" not in shown
    table = re.search(r"closest ties\n +index .*\n((?: +\d+ .*\n){5})", shown)
    assert table is not None
    rows = [line.split() for line in table[1].splitlines()]
    assert [row[0] for row in rows] == ["4860", "1014", "2018", "674", "2129"]
    assert rows[0][1:4] == ["9", "/", "4"]
    look = re.search(r"look +audit report (\S+) -o report\.html", shown)
    assert look is not None
    with h5py.File(look[1]) as file:  # still there
        assert len(file["flagged/index"]) == 12
    assert "FAILED test_model.py::test_it - Failed: near_ties: max_rate is 0.12%" in shown


def test_order_of_a_test(project: pytest.Pytester) -> None:
    """Fixtures first, so that one may make the dataset; then the gates; never the body."""
    project.makeconftest(
        """
        import pytest, shutil

        @pytest.fixture(autouse=True)
        def made():
            shutil.copy("mnist.h5", "made.h5")
            print("made it")
            yield
            print("tidied up")
        """
    )
    tests = marked('"made.h5", model="mnist", eps=0.1, limit=1300, max_count=0')
    result = run(project, tests, "-s")
    result.assert_outcomes(failed=1)
    assert "made it" in text(result)
    assert "tidied up" in text(result)
    assert "the body ran" not in text(result)


def test_part_of_a_dataset(project: pytest.Pytester) -> None:
    """Who asks for a part isn't told that it isn't the whole, unless they ask for that, too."""
    tests = marked(f"{PART}, max_count=3") + marked(f"{PART}, complete=True").replace("_it", "_2")
    result = run(project, tests)
    result.assert_outcomes(passed=1, failed=1)
    assert "near_ties: complete is" in text(result)


def test_gate_that_warns(project: pytest.Pytester) -> None:
    tests = marked(f"{PART}, max_count={{'warn': 2, 'fail': 10}}")
    result = run(project, tests, "-W", "default")
    result.assert_outcomes(passed=1, warnings=1)
    warning = r"test_model\.py:\d: NearTieWarning: near_ties: max_count is 3, limit ≤ 2: "
    assert re.search(warning, text(result))
    result = run(project, tests)
    result.assert_outcomes(errors=1)
    assert "\nnear_ties: max_count is 3, limit ≤ 2: " in text(result)
    assert "pytest_plugin.py" not in text(result)


def test_gate_that_cannot_be_computed(project: pytest.Pytester) -> None:
    """An error of the test's setup, not a failure: nothing was found out."""
    result = run(project, marked(f"{PART}, no_gradients=True, min_median_l2=0.001"))
    result.assert_outcomes(errors=1)
    assert "near_ties: min_median_l2: " in text(result)
    assert "scan again with gradients" in text(result)
    assert "Traceback" not in text(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            'dataset="gone.h5", model="mnist", eps=0.1',
            "near_ties: gone.h5: no such file in {root}, pytest's rootdir; name it from there, or "
            "by an absolute path",
        ),
        ('dataset="mnist.h5", model="gone", eps=0.1', "near_ties: {root}/gone: "),
        ('dataset="mnist.h5", model="mnist", eps=-1', "near_ties: --eps -1: expected a finite"),
        (f"{PART}, max_rate='much'", "near_ties: "),
        (f'{PART}, baseline="gone.h5"', "near_ties: {root}/gone.h5: "),
    ],
)
def test_what_cannot_be_judged(project: pytest.Pytester, arguments: str, message: str) -> None:
    result = run(project, marked(arguments))
    result.assert_outcomes(errors=1)
    (line,) = [each for each in result.stdout.lines if each.startswith("near_ties: ")]
    assert line.startswith(message.format(root=project.path))
    assert "Traceback" not in text(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (f"{MNIST}, max_rat=0.1", "unknown argument 'max_rat'; did you mean 'max_rate'?"),
        (f"{MNIST}, out='here.h5'", "unknown argument 'out'; "),
        (f"{MNIST}, tolerance=1", "unknown argument 'tolerance'; expected of dataset, eps, "),
        ("eps=0.1", "no dataset; add dataset='mnist.h5'"),
        ('"mnist.h5", model="mnist"', "no eps; add eps=0.1"),
        ('"mnist.h5", 0.1', "expected one dataset, and all else by name"),
        ('"a.h5", dataset="b.h5", eps=1', "expected one dataset, and all else by name"),
    ],
)
def test_wrong_use(project: pytest.Pytester, arguments: str, message: str) -> None:
    """One line, before anything runs."""
    tests = marked(arguments) + "def test_other():\n    print('the other ran')\n"
    result = run(project, tests, "-s")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "the other ran" not in text(result)
    (line,) = [each for each in result.stderr.lines if each]
    assert line.startswith(f"ERROR: test_model.py::test_it: near_ties: {message}")


def test_wrong_use_in_a_worker(project: pytest.Pytester) -> None:
    """Where pytest-xdist would crash over it, it is that test's error."""
    tests = marked(f"{PART}, max_rat=0.1") + "def test_other(): pass"
    result = run_apart(project, tests, "-n", "1")
    result.assert_outcomes(passed=1, errors=1)
    assert "\ntest_model.py::test_it: near_ties: unknown argument 'max_rat'; did" in text(result)
    assert "INTERNALERROR" not in text(result)


def test_wrong_use_that_is_deselected(project: pytest.Pytester) -> None:
    result = run(project, marked("eps=0.1") + "def test_other(): pass", "-k", "other")
    result.assert_outcomes(passed=1, deselected=1)


def test_skipped_test_is_not_scanned(project: pytest.Pytester) -> None:
    tests = "@pytest.mark.skip\n" + marked('dataset="gone.h5", eps=0.1').lstrip()
    run(project, tests).assert_outcomes(skipped=1)


def test_expected_failure(project: pytest.Pytester) -> None:
    tests = "@pytest.mark.xfail(strict=True)\n" + marked(f"{PART}, max_count=0").lstrip()
    run(project, tests).assert_outcomes(xfailed=1)


def test_plan_alone_scans_nothing(project: pytest.Pytester) -> None:
    result = run(project, marked('dataset="gone.h5", eps=0.1'), "--setup-plan")
    assert result.ret == 0


def test_marker_of_classes_modules_and_parameters(project: pytest.Pytester) -> None:
    """Every marker of a test counts, wherever it stands."""
    result = run(
        project,
        f"""
import unittest

pytestmark = pytest.mark.near_ties({PART}, max_count=3)

@pytest.mark.near_ties({PART}, max_count=2)
class TestIt:
    def test_strict(self):
        pass

class TestOld(unittest.TestCase):
    def test_loose(self):
        pass

    @pytest.mark.near_ties({PART}, max_count=1)
    def test_strict(self):
        pass

@pytest.mark.parametrize("count", [
    pytest.param(2, marks=pytest.mark.near_ties({PART}, max_count=2)),
    3,
])
def test_parameters(count):
    assert count == 3
""",
    )
    result.assert_outcomes(passed=2, failed=3)


CACHED = """
import audit, collections

CALLS = collections.Counter()
scan = audit.scan

def counted(*args, **options):
    CALLS["scans"] += 1
    return scan(*args, **options)

@pytest.fixture(scope="session", autouse=True)
def count():
    audit.scan = counted

MARK = pytest.mark.near_ties("mnist.h5", model="mnist", eps=0.1, limit=1300, max_count=3)

@MARK
def test_one():
    pass

@MARK
def test_two(audit_scan, pytestconfig):
    findings = audit_scan("mnist.h5", model="mnist", eps=0.1, limit=1300)
    assert findings.flagged == 3
    assert findings is audit_scan(pytestconfig.rootpath / "mnist.h5",
                                  model="mnist", limit=1300, eps=0.1)
    assert CALLS["scans"] == 1

def test_others(audit_scan):
    first = audit_scan("mnist.h5", model="mnist", eps=0.1, limit=1300)
    other = audit_scan("mnist.h5", model="mnist", eps=0.05, limit=1300)
    assert CALLS["scans"] == 2
    assert other.path != first.path
    assert set(other.index) < set(first.index)
    assert len(first.gradient) == 3
"""


def test_fixture_and_cache(project: pytest.Pytester) -> None:
    """Marker and fixture share the session's findings; other arguments are another scan."""
    run_apart(project, CACHED).assert_outcomes(passed=3)


def test_fixture_says_what_is_wrong(project: pytest.Pytester) -> None:
    tests = """
import audit

def test_it(audit_scan):
    with pytest.raises(audit.AuditError, match="gone.h5: no such file in"):
        audit_scan("gone.h5", eps=0.1)
"""
    run(project, tests).assert_outcomes(passed=1)


def test_paths_are_from_the_rootdir(project: pytest.Pytester) -> None:
    """Whichever folder pytest is started in, and whichever the test is in."""
    folder = project.mkdir("deeper")
    configured = PART.replace(', model="mnist"', "")  # in audit.toml
    (project.path / "audit.toml").write_text('model = "bundle"\n')
    (project.path / "bundle").symlink_to(SHIPPED / "mnist")
    (folder / "test_deep.py").write_text("import pytest\n" + marked(f"{configured}, max_count=3"))
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout.splitlines()[-1].split()[0]) == (0, "1")


def test_baseline(project: pytest.Pytester, scanned: Path) -> None:
    shutil.copy(scanned, project.path / "old.h5")
    whole = 'dataset="mnist.h5", model="mnist", eps=0.1, baseline="old.h5"'
    run(project, marked(f"{whole}, max_new=0, max_left=0")).assert_outcomes(passed=1)


def test_workers(project: pytest.Pytester) -> None:
    """Under pytest-xdist every worker scans for itself."""
    tests = "\n".join(
        marked(f"{PART}, max_count={count}").replace("_it", f"_{count}") for count in (2, 3, 4, 5)
    )
    result = run_apart(project, tests, "-n", "2")
    result.assert_outcomes(passed=3, failed=1)
    assert "near_ties: max_count is 3, limit ≤ 2" in text(result)


def test_without_the_plugin(project: pytest.Pytester) -> None:
    """`-p no:near_ties`: the marker is unknown, which strict markers say, and nothing else."""
    result = run_apart(project, marked(f"{PART}, max_count=0"), "-p", "no:near_ties")
    assert "'near_ties' not found in `markers`" in text(result)
    project.makeini("[pytest]\n")
    result = run_apart(project, "def test_it(): pass", "-p", "no:near_ties")
    result.assert_outcomes(passed=1)


def test_marker_and_fixture_are_listed(project: pytest.Pytester) -> None:
    shown = text(project.runpytest_inprocess("--markers"))
    assert "@pytest.mark.near_ties(dataset, *, eps, model=None, baseline=None, max_rate=" in shown
    shown = text(project.runpytest_inprocess("--fixtures"))
    assert re.search(r"audit_scan \[session scope\].*\n +Scan a dataset, once a session", shown)


def heavy_imports(folder: Path, *args: str) -> set[str]:
    """Heavy packages that pytest imports there, as the interpreter itself tells."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pytest", "-s", "-p", "no:cacheprovider", *args],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "audit.errors" in modules  # of the plugin: what pytest itself loads isn't listed
    return {module.partition(".")[0] for module in modules} & (HEAVY | NUMBA)


@pytest.mark.parametrize("command", [(), ("--collect-only",), ("--help",)], ids=str)
def test_start_is_light(tmp_path: Path, command: tuple[str, ...]) -> None:
    """In a project that doesn't use it."""
    (tmp_path / "test_plain.py").write_text("def test_it(): pass")
    assert heavy_imports(tmp_path, *command) == set()


def test_collection_is_light(tmp_path: Path) -> None:
    """Also where it is used, until a test runs."""
    (tmp_path / "test_marked.py").write_text("import pytest\n" + marked(f"{MNIST}, max_count=3"))
    assert heavy_imports(tmp_path, "--collect-only") == set()


def test_that_test_can_fail(tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text("def test_it(): pass")
    (tmp_path / "conftest.py").write_text("import audit.dataset")
    assert heavy_imports(tmp_path) >= {"h5py", "numpy"}
