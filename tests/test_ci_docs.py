"""The workflows of docs/ci.md and action.yml: every shell step is run as it stands, night by night.

What is emulated is the platform: the steps' order, conditions, environment and shell, the actions
that the workflows use, and `gh`, which asks for earlier runs. `pip install` runs, too, without a
network: what it names is installed where the tests run, which pip finds and leaves alone.

What is the same in many nights runs once: an export of the same weights over nothing, and the same
`pip install`; later ones get its bundle, its words (`ONCE`).
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from audit.bundle import load_bundle
from audit.trust import trust_bundle

ROOT = Path(__file__).parents[1]
CI = ROOT / "docs" / "ci.md"
EXTRA = next(
    extra
    for extra, name in (("cpu", "onnxruntime"), ("gpu", "onnxruntime-gpu"))
    if any(each.name == name for each in importlib.metadata.distributions())
)
MODEL = """
from torch import nn

def make_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""
SAMPLES = 1500
ONCE = """#!/bin/bash
# Run {program} once for the same arguments, weights and data; later, hand out what came of it.
case "$1" in
    install) out=nothing files=() ;;
    export) out=${{!#}} files=(model.py weights.safetensors data/test.h5) ;;
    *) exec {program} "$@" ;;
esac
if [ -e "$out" ]; then exec {program} "$@"; fi
made={made}/$({{ echo "$*"; cat /dev/null "${{files[@]}}"; }} | md5sum | tr -d " -")
if [ ! -e "$made.log" ]; then
    {program} "$@" >"$made.part" || {{ code=$?; cat "$made.part"; exit "$code"; }}
    if [ -e "$out" ]; then cp -R "$out" "$made"; fi
    mv "$made.part" "$made.log"
elif [ -e "$made" ]; then
    cp -R "$made" "$out"
fi
cat "$made.log"
"""


def block(language: str, name: str) -> str:
    """The fenced block whose first line is that comment."""
    found = re.findall(rf"```{language}\n# {re.escape(name)}\n(.*?)```", CI.read_text(), re.DOTALL)
    (text,) = found
    return str(text)


def document(text: str) -> dict[str, Any]:
    """YAML, in which the key `on` is not the truth."""
    read = yaml.safe_load(text)
    if True in read:
        read["on"] = read.pop(True)
    return dict(read)


GITHUB = block("yaml", ".github/workflows/near-ties.yml")
GITHUB_ACTION = block("yaml", ".github/workflows/near-ties-action.yml")
GITLAB = block("yaml", ".gitlab-ci.yml")
PRE_COMMIT = block("yaml", ".pre-commit-config.yaml")
HOOK = block("sh", "tools/near-ties.sh")
ACTION = (ROOT / "action.yml").read_text()


class Project:
    """A repository with a linear classifier of the shipped images' first half, tested on others."""

    def __init__(self, folder: Path, mnist: Path) -> None:
        self.folder = folder
        (folder / "data").mkdir(parents=True)
        with h5py.File(mnist) as file, h5py.File(folder / "data/test.h5", "w") as test:
            images, labels = file["images"][:], file["labels"][:]
            test["images"], test["labels"] = images[-SAMPLES:], labels[-SAMPLES:]
        x = torch.from_numpy(images[:5000].reshape(5000, -1) / np.float32(255)).double()
        x = torch.cat([x, torch.ones(5000, 1)], dim=1)
        wanted = nn.functional.one_hot(torch.from_numpy(labels[:5000]).long(), 10).double()
        ridge = x.T @ x + 10 * torch.eye(785).double()
        self._solution = (torch.linalg.solve(ridge, x.T @ wanted).T * 10).float()
        self.train(1)
        (folder / "model.py").write_text(MODEL)
        (folder / "requirements.txt").write_text("torch\n")
        (folder / "audit.toml").write_text(block("toml", "audit.toml"))
        (folder / "tools").mkdir()
        (folder / "tools/near-ties.sh").write_text(HOOK)
        (folder / ".pre-commit-config.yaml").write_text(PRE_COMMIT)

    def train(self, sharpness: float) -> None:
        """The less sharp, the more near ties; the classes stay the same."""
        solution = self._solution * sharpness
        weights = {
            "1.weight": solution[:, :-1].contiguous(),
            "1.bias": solution[:, -1].contiguous(),
        }
        save_file(weights, self.folder / "weights.safetensors")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `audit` and `pip` that don't repeat themselves."""
    programs = tmp_path_factory.mktemp("once")
    made = tmp_path_factory.mktemp("made")
    for name in ("audit", "pip"):
        path = programs / name
        path.write_text(ONCE.format(program=Path(sys.executable).parent / name, made=made))
        path.chmod(0o755)
    python = programs / "python"  # where `audit` was installed by other means, this may be none
    python.write_text("#!/bin/sh\nexit 127\n")
    python.chmod(0o755)
    return programs


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, mnist_h5: Path) -> Project:
    return Project(tmp_path_factory.mktemp("trained") / "repository", mnist_h5)


@pytest.fixture
def project(tmp_path: Path, trained: Project) -> Project:
    """One's own copy."""
    mine = copy.copy(trained)
    mine.folder = tmp_path / "repository"
    shutil.copytree(trained.folder, mine.folder)
    return mine


def environment(first: Path | None = None, **more: str) -> dict[str, str]:
    """A runner's: this environment's programs, after those of a folder; no package index."""
    names = ("HOME", "LANG", "TMPDIR", "TMP", "XDG_DATA_HOME")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    bins = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    path = bins if first is None else f"{first}:{bins}"
    offline = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "LC_ALL": "C.UTF-8"}
    return kept | {"PATH": path} | offline | more


GH = """#!{python}
# Of GitHub's own program what the workflow asks it, from a folder of runs.
import argparse, json, pathlib, shutil, sys

parser = argparse.ArgumentParser()
verbs = parser.add_subparsers(required=True).add_parser("run").add_subparsers(required=True)
listing = verbs.add_parser("list")
for option in ("workflow", "branch", "status", "limit", "json", "jq"):
    listing.add_argument("--" + option, required=True)
download = verbs.add_parser("download")
download.add_argument("run")
download.add_argument("--name", required=True)
download.add_argument("--dir", required=True)
given = parser.parse_args()
store = pathlib.Path({store!r})
assert __import__("os").environ["GH_TOKEN"] == "token"
if hasattr(given, "run"):
    shutil.copytree(store / given.run / given.name, given.dir)
else:
    assert (given.limit, given.json, given.jq) == ("1", "databaseId", ".[].databaseId")
    assert given.workflow == "near-ties.yml"
    runs = [json.loads(path.read_text()) for path in store.glob("*.json")]
    runs = [
        run for run in runs
        if (run["branch"], run["conclusion"]) == (given.branch, given.status)
    ]
    if runs:
        print(max(run["id"] for run in runs))
"""


@dataclass
class Night:
    """What became of a run.

    Attributes:
        conclusion: success or failure.
        codes: Exit code of each step that ran, by name or id.
        log: What all steps printed.
        summary: The job's page.
        artifact: Its folder.
        outputs: Of each step with an id.
    """

    conclusion: str
    codes: dict[str, int] = field(default_factory=dict)
    log: str = ""
    summary: str = ""
    artifact: Path = Path()
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)

    def baseline(self) -> str | None:
        """When the findings that it was compared with were made."""
        return created(self.artifact.parent / "last-night.h5")


def created(path: Path) -> str | None:
    if not path.exists():
        return None
    with h5py.File(path) as file:
        return str(file.attrs["created"])


class Expressions:
    """The few that the workflows use; another one fails the test."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def fill(self, text: str) -> str:
        """With each ${{ … }} replaced."""
        return re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda found: self._values[found[1]], text)

    def holds(self, condition: str | None, failed: bool) -> bool:
        """Whether a step runs."""
        if condition is None:
            return not failed
        inner = re.fullmatch(r"\$\{\{ (.+) \}\}", condition)
        assert inner is not None, condition
        if inner[1] == "always()":
            return True
        if failed:  # a condition that doesn't mention the status includes success()
            return False
        if negated := re.fullmatch(r"!([\w.]+)", inner[1]):
            return self._values[negated[1]] in ("", "false")
        compared = re.fullmatch(r"([\w.]+) != '(\w*)'", inner[1])
        assert compared is not None, condition
        return self._values[compared[1]] != compared[2]


class Runner:
    """GitHub's, as far as these workflows go."""

    def __init__(self, tmp: Path, project: Project, once: Path) -> None:
        self._tmp, self._project, self._once = tmp, project, once
        self._environment: dict[str, str] = {}
        self.store = tmp / "store"
        self.store.mkdir()
        self._bin = tmp / "bin"
        self._bin.mkdir()
        gh = self._bin / "gh"
        gh.write_text(GH.format(python=sys.executable, store=str(self.store)))
        gh.chmod(0o755)
        self._runs = 0

    def run(self, workflow: str, branch: str = "main", secret: str = "", **inputs: str) -> Night:
        """The workflow's one job, in a fresh checkout."""
        (job,) = document(workflow)["jobs"].values()
        shell = document(workflow).get("defaults", {}).get("run", {}).get("shell")
        assert shell in ("bash", None)
        self._runs += 1
        values = {f"inputs.{name}": value for name, value in inputs.items()}
        secrets = Expressions({"secrets.AUDIT_TRUST_KEY": secret})
        self._environment = {name: secrets.fill(text) for name, text in job.get("env", {}).items()}
        night = self.steps(job["steps"], {"inputs.new_baseline": ""} | values, shell)
        record = {"id": self._runs, "branch": branch, "conclusion": night.conclusion}
        (self.store / f"{self._runs}.json").write_text(json.dumps(record))
        return night

    def keep(self, branch: str, conclusion: str, artifact: bool = True) -> Path:
        """A run of long ago, and its findings."""
        self._runs += 1
        record = {"id": self._runs, "branch": branch, "conclusion": conclusion}
        (self.store / f"{self._runs}.json").write_text(json.dumps(record))
        findings = self.store / f"{self._runs}/near-ties/findings.h5"
        if artifact:
            findings.parent.mkdir(parents=True)
            with h5py.File(findings, "w") as file:
                file.attrs["created"] = f"night {self._runs}"
        return findings

    def steps(
        self, steps: list[dict[str, Any]], values: dict[str, str], shell: str | None
    ) -> Night:
        """One after the other, in an empty folder."""
        work = self._tmp / f"work-{self._runs}"
        work.mkdir()
        night = Night("success", artifact=self.store / f"{self._runs}" / "near-ties")
        values = {"github.token": "token"} | values
        for number, step in enumerate(steps):
            expressions = Expressions(values)
            if not expressions.holds(step.get("if"), night.conclusion == "failure"):
                continue
            name = step.get("id") or step.get("name") or step["uses"]
            if "uses" in step:
                code = self._use(step, expressions, work, night, values)
            else:
                code = self._shell(step, expressions, work, night, step.get("shell", shell), number)
            night.codes[name] = code
            if code:
                night.conclusion = "failure"
            for output, value in night.outputs.get(name, {}).items():
                values[f"steps.{name}.outputs.{output}"] = value
        if (work / "last-night/findings.h5").exists():
            night.artifact.parent.mkdir(exist_ok=True)
            shutil.copy(work / "last-night/findings.h5", night.artifact.parent / "last-night.h5")
        return night

    def _shell(
        self,
        step: dict[str, Any],
        expressions: Expressions,
        work: Path,
        night: Night,
        shell: str | None,
        number: int,
    ) -> int:
        files = {
            name: self._tmp / f"{name}-{self._runs}-{number}"
            for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH")
        }
        for path in files.values():
            path.touch()
        script = self._tmp / f"step-{self._runs}-{number}.sh"
        script.write_text(step["run"])
        # https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax, "shell"
        options = {"bash": ["--noprofile", "--norc", "-eo", "pipefail"], None: ["-e"]}[shell]
        given = environment(self._once, **{name: str(path) for name, path in files.items()})
        given |= {"CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_ACTION_PATH": str(ROOT)}
        given |= self._environment
        given |= {name: expressions.fill(value) for name, value in step.get("env", {}).items()}
        given["PATH"] = f"{self._bin}:{given['PATH']}"
        done = subprocess.run(
            ["bash", *options, script],
            cwd=work,
            env=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        night.log += done.stdout
        night.summary += files["GITHUB_STEP_SUMMARY"].read_text()
        outputs = [line.partition("=") for line in files["GITHUB_OUTPUT"].read_text().splitlines()]
        night.outputs[step.get("id", "")] = {name: value for name, _, value in outputs}
        return done.returncode

    def _use(
        self,
        step: dict[str, Any],
        expressions: Expressions,
        work: Path,
        night: Night,
        values: dict[str, str],
    ) -> int:
        action = step["uses"].partition("@")[0]
        given = {name: expressions.fill(str(value)) for name, value in step.get("with", {}).items()}
        if action == "actions/checkout":
            shutil.copytree(self._project.folder, work, dirs_exist_ok=True)
        elif action == "actions/upload-artifact":
            if (work / given["path"]).exists():
                night.artifact = self.store / f"{self._runs}" / given["name"]
                shutil.copytree(work / given["path"], night.artifact)
        elif action == "OWNER/near-tie-audit":
            return self._composite(step["id"], given, work, night)
        else:
            assert action == "actions/setup-python"
        return 0

    def _composite(self, name: str, given: dict[str, str], work: Path, night: Night) -> int:
        """This repository's action; it stops at the first step that fails, and has outputs."""
        action = document(ACTION)
        inputs = {each: spec.get("default", "") for each, spec in action["inputs"].items()}
        assert given.keys() <= inputs.keys()
        assert all(
            spec.get("required") is None or each in given for each, spec in action["inputs"].items()
        )
        values = {f"inputs.{each}": value for each, value in (inputs | given).items()}
        code = 0
        for number, step in enumerate(action["runs"]["steps"], 100):
            expressions = Expressions(values)
            if code or not expressions.holds(step.get("if"), failed=False):
                continue
            code = self._shell(step, expressions, work, night, step["shell"], number)
            for output, value in night.outputs.pop(step.get("id", ""), {}).items():
                values[f"steps.{step['id']}.outputs.{output}"] = value
        night.outputs[name] = {}
        for output, spec in action["outputs"].items():
            found = re.fullmatch(r"\$\{\{ ([\w.]+)(?: \|\| '(\w+)')? \}\}", spec["value"])
            assert found is not None, spec["value"]
            night.outputs[name][output] = values.get(found[1], "") or found[2] or ""
        return code


@pytest.fixture
def runner(tmp_path: Path, project: Project, once: Path) -> Runner:
    return Runner(tmp_path, project, once)


def assert_kept(artifact: Path, failed: set[str]) -> None:
    """Findings, report and JUnit XML are there, whatever happened."""
    assert {path.name for path in artifact.iterdir()} == {"findings.h5", "report.html", "junit.xml"}
    with h5py.File(artifact / "findings.h5") as file:
        assert file.attrs["scanned"] == SAMPLES
    assert "Content-Security-Policy" in (artifact / "report.html").read_text()
    cases = [*ElementTree.parse(artifact / "junit.xml").getroot().iter("testcase")]
    assert {case.get("name") for case in cases if case.find("failure") is not None} == failed
    assert {"max_rate", "min_accuracy", "max_rate_increase"} <= {case.get("name") for case in cases}


def installable(workflow: str) -> str:
    """For the extra that is installed here, so that pip finds it in place."""
    return workflow.replace("near-tie-audit[cpu]", f"near-tie-audit[{EXTRA}]")


TRUST_KEY = "a key that machines share, of some length"
BASELINE = "Last night's findings"


def only(workflow: str, name: str) -> str:
    """The workflow with nothing but this step."""
    parts = document(workflow)
    (job,) = parts["jobs"].values()
    job["steps"] = [step for step in job["steps"] if step.get("name") == name]
    assert len(job["steps"]) == 1
    return yaml.safe_dump(parts)


def test_github_nights(runner: Runner, project: Project) -> None:
    workflow = installable(GITHUB)
    first = runner.run(workflow)
    assert first.conclusion == "success", first.log
    assert "Requirement already satisfied: near-tie-audit" in first.log
    assert_kept(first.artifact, set())
    assert first.baseline() is None
    assert "no baseline" in first.log
    assert "audit check: PASS" in first.summary

    second = runner.run(workflow)
    assert second.conclusion == "success", second.log
    assert_kept(second.artifact, set())
    assert second.baseline() == created(first.artifact / "findings.h5")
    assert "no baseline" not in second.log

    project.train(0.3)
    third = runner.run(workflow)
    assert third.conclusion == "failure"
    assert third.codes["Check"] == 1
    assert {name: code for name, code in third.codes.items() if code} == {"Check": 1}
    assert_kept(third.artifact, {"max_rate_increase"})
    assert third.baseline() == created(second.artifact / "findings.h5")
    assert "::error" in third.log
    assert "FAIL" in third.summary

    other = runner.run(only(workflow, BASELINE), branch="feature")  # not with the one that failed
    assert other.baseline() == created(second.artifact / "findings.h5")

    accepted = runner.run(workflow, new_baseline="true")
    assert accepted.conclusion == "success", accepted.log
    assert accepted.baseline() is None
    after = runner.run(only(workflow, BASELINE))
    assert after.baseline() == created(accepted.artifact / "findings.h5")


def test_github_other_branch_is_no_baseline(runner: Runner) -> None:
    """Nor is a night that failed, or an older one; and on `main` these are what is taken."""
    find = only(GITHUB, BASELINE)
    runner.keep("feature", "success")
    assert runner.run(find, branch="feature").baseline() is None
    older, newer = runner.keep("main", "success"), runner.keep("main", "success")
    runner.keep("main", "failure")
    runner.keep("feature", "success")
    night = runner.run(find)
    assert night.conclusion == "success", night.log
    assert night.baseline() == created(newer) != created(older)


def test_github_scan_that_fails(runner: Runner, project: Project) -> None:
    """A night without findings is red, and is no baseline."""
    (project.folder / "data/test.h5").write_text("not HDF5")
    night = runner.run(installable(GITHUB))
    assert night.conclusion == "failure"
    assert "Check" not in night.codes
    assert not night.artifact.exists() or not [*night.artifact.iterdir()]


def test_github_artifact_that_is_gone(runner: Runner) -> None:
    """Not taken for a first night."""
    runner.keep("main", "success", artifact=False)
    night = runner.run(only(GITHUB, BASELINE))
    assert night.conclusion == "failure"
    assert night.codes[BASELINE] == 1


def test_action(
    runner: Runner,
    project: Project,
    once: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the workflow uses it, but with what is installed here."""
    export(project, once)
    monkeypatch.setenv("AUDIT_TRUST_KEY", TRUST_KEY)
    trust_bundle(load_bundle(project.folder / "bundle"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))  # the runner has exported nothing
    workflow = GITHUB_ACTION.replace(
        "with:\n          dataset:", "with:\n          install: none\n          dataset:"
    )
    assert workflow != GITHUB_ACTION
    night = runner.run(workflow, secret=TRUST_KEY)
    assert night.conclusion == "success", night.log
    assert night.outputs["near-ties"] == {
        "findings": "near-ties/findings.h5",
        "report": "near-ties/report.html",
        "junit": "near-ties/junit.xml",
        "status": "PASS",
    }
    assert "status of near ties PASS\n" in night.log
    assert_kept(night.artifact, set())
    assert "audit check: PASS" in night.summary

    failing = runner.run(workflow.replace("max_rate=0.1\n", "max_rate=0.001\n"), secret=TRUST_KEY)
    assert failing.codes["near-ties"] == 1
    assert failing.outputs["near-ties"]["status"] == "FAIL"
    assert "status of near ties FAIL\n" in failing.log
    assert_kept(failing.artifact, {"max_rate"})
    assert gates_of(failing.artifact / "report.html")["max_rate"] == "FAIL"  # as the check has it

    wrong = runner.run(workflow.replace("max_rate=0.1\n", "max_rat=0.1\n"), secret=TRUST_KEY)
    assert wrong.codes["near-ties"] == 2
    assert wrong.outputs["near-ties"]["status"] == "ERROR"
    assert "status of near ties ERROR\n" in wrong.log
    assert wrong.log.count("Error: ") == 1

    forked = runner.run(workflow)  # whose secrets are empty
    assert forked.codes["near-ties"] == 2
    assert "Error: bundle: not trusted on this machine" in forked.log

    (project.folder / "data/test.h5").write_text("not HDF5")
    broken = runner.run(workflow, secret=TRUST_KEY)
    assert broken.codes["near-ties"] == 2
    assert broken.outputs["near-ties"] == {
        "findings": "",
        "report": "",
        "junit": "",
        "status": "ERROR",
    }


def test_action_installs_itself(tmp_path: Path) -> None:
    """Its own checkout, into a Python that has the dependencies and no network."""
    shutil.copytree(
        ROOT,
        tmp_path / "action",
        ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.h5"),
    )
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=60
    )
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    program = tmp_path / "venv/bin/pip"
    program.write_text(f'#!/bin/sh\nexec {tmp_path}/venv/bin/python -m pip "$@"\n')
    program.chmod(0o755)
    (step,) = [each for each in document(ACTION)["runs"]["steps"] if each.get("name") == "Install"]
    given = environment(
        GITHUB_ACTION_PATH=str(tmp_path / "action"), EXTRA=EXTRA, PIP_NO_BUILD_ISOLATION="0"
    )
    given["PATH"] = f"{program.parent}:{given['PATH']}"
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=tmp_path,
        env=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (site / "audit/pytest_plugin.py").exists()
    assert (program.parent / "audit").exists()


HOSTILE = "$(touch pwned)`touch pwned`\"; touch pwned; '"


def test_action_takes_inputs_as_data(runner: Runner, project: Project, once: Path) -> None:
    """Whatever they are, they are names and values, never scripts."""
    steps = document(ACTION)["runs"]["steps"]
    export(project, once)
    shutil.copy(project.folder / "data/test.h5", project.folder / "-odd $(touch pwned).h5")
    given = {"dataset": "-odd $(touch pwned).h5", "model": "bundle", "eps": "0.1"}
    values = {
        "gates": f"max_rate=0.1\n\nmax_nonfinite=0 # {HOSTILE}",
        "baseline": HOSTILE,
        "out": "out $(touch pwned)",
        "install": "none",
    }
    runner._runs += 1
    checkout = {"uses": "actions/checkout@v5"}
    everything = {f"inputs.{name}": value for name, value in (given | values).items()}
    night = runner.steps([checkout, *steps], everything, "bash")
    work = runner._tmp / "work-1"
    assert not [*work.rglob("pwned")]
    assert (work / "out $(touch pwned)/report.html").exists()
    assert night.codes == {
        "actions/checkout@v5": 0,
        "scan": 0,
        "check": 0,
    }


def gates_of(report: Path) -> dict[str, str]:
    """Gate → status, as the page shows them."""
    rows = re.findall(r'data-gate="([^"]+)" data-status="(\w+)"', report.read_text())
    return dict(rows)


def export(project: Project, once: Path) -> None:
    (command,) = [
        step["run"]
        for step in document(GITHUB)["jobs"]["near-ties"]["steps"]
        if step.get("name") == "Export"
    ]
    subprocess.run(
        ["bash", "-ec", command], cwd=project.folder, env=environment(once), check=True, text=True
    )


def gitlab(tmp: Path, project: Project, once: Path, number: int, **variables: str) -> Night:
    """A pipeline's job: the lines of `script` are one script, which stops at a fault."""
    job = document(installable(GITLAB))["near-ties"]
    work, cache = tmp / f"build-{number}", tmp / "cache"
    shutil.copytree(project.folder, work)
    paths = job["cache"]["paths"]
    for path in paths:
        if (cache / path).exists():
            shutil.copytree(cache / path, work / path)
    before = created(work / "last-night/findings.h5")
    script = "\n".join(["set -eo pipefail", "set +o noclobber", *job["script"]])
    given = environment(once, CI="true", GITLAB_CI="true", **(job["variables"] | variables))
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=work,
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=240,
    )
    night = Night("failure" if done.returncode else "success", {"script": done.returncode})
    night.log = done.stdout
    assert job["artifacts"]["when"] == "always"
    (kept,) = job["artifacts"]["paths"]
    night.artifact = work / kept
    assert (work / job["artifacts"]["reports"]["junit"]).exists()
    if before is not None:
        shutil.copytree(cache / "last-night", tmp / f"before-{number}")
    assert job["cache"]["when"] == "on_success"
    if done.returncode == 0:
        for path in paths:
            shutil.rmtree(cache / path, ignore_errors=True)
            shutil.copytree(work / path, cache / path)
    night.outputs["cache"] = {
        "before": before or "",
        "after": created(cache / "last-night/findings.h5") or "",
    }
    return night


def test_gitlab_nights(tmp_path: Path, project: Project, once: Path) -> None:
    first = gitlab(tmp_path, project, once, 1)
    assert first.conclusion == "success", first.log
    assert_kept(first.artifact, set())
    assert first.outputs["cache"]["before"] == ""
    assert "no baseline" in first.log
    kept = created(first.artifact / "findings.h5")
    assert first.outputs["cache"]["after"] == kept

    project.train(0.3)
    second = gitlab(tmp_path, project, once, 2)
    assert second.codes["script"] == 1
    assert_kept(second.artifact, {"max_rate_increase"})
    assert second.outputs["cache"] == {"before": kept, "after": kept}
    assert "no baseline" not in second.log

    third = gitlab(tmp_path, project, once, 3, NEW_BASELINE="true")
    assert third.conclusion == "success", third.log
    assert "no baseline" in third.log
    assert third.outputs["cache"]["after"] == created(third.artifact / "findings.h5")


def test_hook(project: Project, once: Path) -> None:
    """As pre-commit runs it: the entry, split as a shell would, without file names."""
    (repository,) = document(PRE_COMMIT)["repos"]
    (hook,) = repository["hooks"]
    assert (hook["language"], hook["pass_filenames"]) == ("system", False)
    subprocess.run(["git", "init", "-q"], cwd=project.folder, check=True)

    def push() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            hook["entry"].split(),
            cwd=project.folder,
            env=environment(once),
            capture_output=True,
            text=True,
            check=False,
        )

    done = push()
    assert done.returncode == 0, done.stdout + done.stderr
    project.train(0.01)
    done = push()  # over what the first wrote
    assert done.returncode == 1, done.stdout + done.stderr
    assert "max_rate" in done.stdout
    for name in ("model.py", "weights.safetensors", "audit.toml"):
        assert re.search(hook["files"], name)


def scripts() -> Iterator[tuple[str, str]]:
    """Every shell script there is, with a name."""
    for name, text in (("github", GITHUB), ("github action", GITHUB_ACTION)):
        (job,) = document(text)["jobs"].values()
        for number, step in enumerate(job["steps"]):
            if "run" in step:
                yield f"{name} {number}", step["run"]
    for number, step in enumerate(document(ACTION)["runs"]["steps"]):
        yield f"action {number}", step["run"]
    yield "gitlab", "\n".join(document(GITLAB)["near-ties"]["script"])
    yield "hook", HOOK


SCRIPTS = dict(scripts())


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_expression_in_a_script(name: str) -> None:
    assert "${{" not in SCRIPTS[name]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck(name: str) -> None:
    dialect = "sh" if name == "hook" else "bash"
    done = subprocess.run(
        ["shellcheck", f"--shell={dialect}", "--enable=quote-safe-variables", "-"],
        input=SCRIPTS[name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


SCHEMAS = {
    "vendor.github-workflows": [GITHUB, GITHUB_ACTION],
    "vendor.github-actions": [ACTION],
    "vendor.gitlab-ci": [GITLAB],
}


def valid(schema: str, text: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "document.yml"
    path.write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, path],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("schema", "text"), [(schema, text) for schema, texts in SCHEMAS.items() for text in texts]
)
def test_schema(schema: str, text: str, tmp_path: Path) -> None:
    done = valid(schema, text, tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("schema", "text", "wrong"),
    [
        ("vendor.github-workflows", GITHUB, ("runs-on:", "run-on:")),
        ("vendor.github-actions", ACTION, ("using: composite", "using: composed")),
        ("vendor.gitlab-ci", GITLAB, ("when: always", "when: ever")),
    ],
)
def test_schema_can_fail(schema: str, text: str, wrong: tuple[str, str], tmp_path: Path) -> None:
    assert wrong[0] in text
    assert valid(schema, text.replace(*wrong), tmp_path).returncode == 1


@pytest.mark.parametrize("text", [GITHUB, GITHUB_ACTION])
def test_workflow_is_frugal(text: str) -> None:
    """Permissions to read, and actions by their major version."""
    workflow = document(text)
    assert set(workflow["permissions"].values()) == {"read"}
    (job,) = workflow["jobs"].values()
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    ours = [each for each in used if each.startswith("OWNER/")]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", each) for each in used if each not in ours)


def test_inputs_of_the_action_are_documented() -> None:
    table = CI.read_text()
    for name in document(ACTION)["inputs"]:
        assert re.search(rf"^\| .*`{name}`", table, re.MULTILINE)
    for name in document(ACTION)["outputs"]:
        assert f"`{name}`" in table
