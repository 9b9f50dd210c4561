"""What is configured: where it is looked for, which place wins, what is wrong with it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import audit
from audit.bundle import SHIPPED, load_bundle
from audit.config import EXPECTED, Setting, effective, find_model, load_config, text_from_value
from audit.errors import BundleNotFoundError, OptionError
from audit.gates import DEFAULTS, KNOWN
from audit.gates.thresholds import read_gates
from conftest import Run

DOCUMENT = Path(__file__).parents[1] / "docs" / "configuration.md"
PYPROJECT = "pyproject.toml [tool.audit]"
PLACES = ("argument", "variable", "audit.toml", "pyproject.toml", "attribute")


def found(places: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> str:
    """The model, where each of `places` names a bundle called as itself."""
    monkeypatch.delenv("AUDIT_MODEL", raising=False)
    if "variable" in places:
        monkeypatch.setenv("AUDIT_MODEL", "variable")
    if "audit.toml" in places:
        Path("audit.toml").write_text('model = "audit.toml"')
    if "pyproject.toml" in places:
        Path("pyproject.toml").write_text('[tool.audit]\nmodel = "pyproject.toml"')
    argument = "argument" if "argument" in places else None
    return find_model(argument, "data.h5", "attribute" if "attribute" in places else None)


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUDIT_MODEL", raising=False)


@pytest.mark.parametrize("first", range(len(PLACES)))
def test_precedence(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(PLACES[first:], monkeypatch) == PLACES[first]


@pytest.mark.parametrize("place", PLACES)
def test_each_is_enough(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found((place,), monkeypatch) == place


def test_none_says_every_way() -> None:
    with pytest.raises(BundleNotFoundError) as caught:
        find_model(None, "data.h5", None)
    for way in ("data.h5", "--model", "AUDIT_MODEL", "audit.toml", "audit_bundle"):
        assert way in str(caught.value)


def test_path_objects_and_empty_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_MODEL", "")
    Path("audit.toml").write_text("eps = 0.1")
    Path("pyproject.toml").write_text("[project]\nname = 'x'")
    assert find_model(None, "data.h5", "mnist") == "mnist"
    assert find_model(Path("a/b"), "data.h5", "mnist") == "a/b"


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("mnist", "mnist"),
        ("mine", "/data/mine"),
        ("sub/mine", "/data/sub/mine"),
        ("./mine", "/data/mine"),
        ("..mine", "/data/..mine"),
        ("../mine", None),
        ("sub/../../mine", None),
        ("/data/mine", None),
        ("/etc", None),
        ("", None),
    ],
)
def test_attribute_stays_in_the_folder_of_the_dataset(attribute: str, expected: str | None) -> None:
    if expected is not None:
        assert find_model(None, "/data/x.h5", attribute) == expected
        return
    with pytest.raises(BundleNotFoundError, match=r"/data/x\.h5.*--model"):
        find_model(None, "/data/x.h5", attribute)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("audit.toml", "model =", "audit.toml: not TOML"),
        ("audit.toml", f"eps = {'9' * 5000}", "audit.toml: not TOML"),
        ("audit.toml", f"eps = {'[' * 5000}", "audit.toml: not TOML"),
        ("audit.toml", "model = ['a']", "audit.toml: model is ['a']; expected the path"),
        ("audit.toml", "model = ''", "audit.toml: model is ''; expected the path"),
        ("audit.toml", 'model = "a\\u0000b"', r"audit.toml: model is 'a\x00b'; expected the path"),
        ("audit.toml", "eps = '0.1'", "audit.toml: eps is '0.1'; expected a number, such as 0.1"),
        ("audit.toml", "eps = true", "audit.toml: eps is true; expected a number"),
        ("audit.toml", "eps = 2020-01-01", "audit.toml: eps is 2020-01-01; expected a number"),
        ("audit.toml", f"eps = 0x{'f' * 5000}", "audit.toml: eps is 0xffff"),
        ("audit.toml", "eps = -1", "audit.toml: eps -1.0: expected a finite number above 0"),
        ("audit.toml", "eps = inf", "audit.toml: eps inf: expected a finite number above 0"),
        ("audit.toml", "min_logit = nan", "audit.toml: min_logit nan: expected a finite number"),
        ("audit.toml", "min_logit = {}", "audit.toml: min_logit is {  }; expected a number"),
        ("audit.toml", "device = 'tpu'", "audit.toml: device tpu: expected one of cpu, cuda"),
        ("audit.toml", "device = 0", "audit.toml: device is 0; expected one of cpu, cuda"),
        ("audit.toml", "images = 3", "audit.toml: images is 3; expected the name of the samples"),
        ("audit.toml", "labels = ''", "audit.toml: labels is ''; expected the name of the labels"),
        ("audit.toml", "gates = 3", "audit.toml: gates is 3; expected a table"),
        ("audit.toml", "gates.max_rate = 'x'", "audit.toml: gates.max_rate is 'x'; expected a num"),
        ("audit.toml", "gates.max_rate = inf", "audit.toml: gates.max_rate is inf; expected a num"),
        (
            "audit.toml",
            "gates.max_rate = { fail = [1], warn = { '4/9' = false } }",
            "gates.max_rate is { fail = [1], warn = { '4/9' = false } }; expected a number",
        ),
        (
            "audit.toml",
            "epss = 0.1",
            "audit.toml: unknown key 'epss'; expected one of model, eps, min_logit, device, "
            "images, labels, gates; did you mean 'eps'?",
        ),
        ("audit.toml", "min-logit = 1", "; did you mean 'min_logit'?"),
        ("audit.toml", "gate.max_rate = 1", "unknown key 'gate'"),
        ("audit.toml", "[tool.audit]\neps = 1", "audit.toml: unknown key 'tool'"),
        (
            "audit.toml",
            "gates.max_rates = 1",
            f"audit.toml: unknown key 'gates.max_rates'; expected one of {', '.join(KNOWN)}; did "
            "you mean 'gates.max_rate'?",
        ),
        ("pyproject.toml", "[tool.audit", "pyproject.toml: not TOML"),
        ("pyproject.toml", "tool = 3", "pyproject.toml: tool.audit is not a table"),
        ("pyproject.toml", "tool.audit = 3", "pyproject.toml: tool.audit is not a table"),
        ("pyproject.toml", "tool.audit.model = 3", f"{PYPROJECT}: model is 3; expected"),
        ("pyproject.toml", "tool.audit.epss = 3", f"{PYPROJECT}: unknown key 'epss'"),
        ("pyproject.toml", "tool.audit.gates.max = 3", f"{PYPROJECT}: unknown key 'gates.max'"),
    ],
)
def test_what_is_wrong_with_it(file: str, text: str, message: str) -> None:
    Path(file).write_text(text)
    for look in (load_config, lambda: find_model(None, "data.h5", "mnist")):
        with pytest.raises(OptionError) as caught:
            look()
        assert message in str(caught.value)
        assert str(caught.value).startswith(file)
    assert find_model("mine", "data.h5", None) == "mine"  # nothing is looked for


def test_a_hint_only_where_one_is_near() -> None:
    Path("audit.toml").write_text("zzz = 1")
    with pytest.raises(OptionError) as caught:
        load_config()
    assert str(caught.value).endswith("images, labels, gates")


def test_what_is_there_and_no_file() -> None:
    """As good as a typo: gates that aren't read would pass."""
    Path("audit.toml").symlink_to("gone.toml")
    with pytest.raises(OptionError, match=r"audit\.toml: not TOML that can be read"):
        load_config()
    Path("audit.toml").unlink()
    Path("audit.toml").mkdir()
    with pytest.raises(OptionError, match=r"audit\.toml: not TOML that can be read"):
        load_config()


def test_configuration_that_is_not_utf8() -> None:
    Path("audit.toml").write_bytes(b"model = '\xff'")
    with pytest.raises(OptionError, match=r"audit\.toml: not TOML"):
        find_model(None, "data.h5", "mnist")


@pytest.mark.parametrize("text", ["", "[project]\nname = 'x'", "[tool.ruff]\neps = 'wrong'"])
def test_nothing_is_configured(text: str) -> None:
    Path("pyproject.toml").write_text(text)
    config = load_config()
    assert (config.values, config.gates) == ({}, {})


def test_audit_toml_wins_key_by_key_and_gate_by_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("audit.toml").write_text(
        "eps = 1\nlabels = 'y'\n[gates]\nmax_rate = { warn = 0.001, fail = 0.002 }\n"
        "complete = false\n"
    )
    Path("pyproject.toml").write_text(
        "[tool.audit]\nmodel = 'mine'\neps = 3\nmin_logit = 2\n[tool.audit.gates]\n"
        "max_rate = 0.5\nmax_new = 3\nlevel = 0.05"
    )
    config = load_config()
    assert config.values == {
        "model": Setting("mine", PYPROJECT),
        "eps": Setting(1.0, "audit.toml"),
        "min_logit": Setting(2.0, PYPROJECT),
        "labels": Setting("y", "audit.toml"),
    }
    assert type(config.values["eps"].value) is float
    assert config.gates == {
        "max_rate": Setting({"warn": 0.001, "fail": 0.002}, "audit.toml"),
        "complete": Setting(False, "audit.toml"),
        "max_new": Setting(3, PYPROJECT),
        "level": Setting(0.05, PYPROJECT),
    }
    monkeypatch.chdir("/")
    assert load_config().values == {}
    assert load_config(tmp_path).values["eps"] == (1.0, str(tmp_path / "audit.toml"))


def test_effective_has_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("audit.toml").write_text("model = 'mine'\neps = 0.5\ngates.max_new = 3")
    found = effective(load_config())
    assert found.values == {
        "model": ("mine", "audit.toml"),
        "eps": (0.5, "audit.toml"),
        "min_logit": (None, "default"),
        "device": ("cpu", "default"),
        "images": (None, "default"),
        "labels": (None, "default"),
    }
    assert found.gates == {
        **{name: (value, "default") for name, value in DEFAULTS.items()},
        "max_new": (3, "audit.toml"),
    }
    monkeypatch.setenv("AUDIT_MODEL", "other")
    assert effective(load_config()).values["model"] == ("other", "environment AUDIT_MODEL")
    Path("audit.toml").unlink()
    assert effective(load_config()).values["eps"] == (None, "not set")


def test_audit_config_prints_values_and_sources(run_audit: Run, tmp_path: Path) -> None:
    (tmp_path / "audit.toml").write_text(
        "eps = 0.1\n[gates]\nmax_rate = { warn = 0.001, fail = 0.002 }\ncomplete = false"
    )
    (tmp_path / "pyproject.toml").write_text("tool.audit.images = 'x'")
    environ = {**os.environ, "AUDIT_MODEL": "mnist"}
    done = run_audit("config", env=environ)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    words = [" ".join(line.split()) for line in lines]
    for line in (
        "model 'mnist' environment AUDIT_MODEL",
        "eps 0.1 audit.toml",
        "min_logit - default",
        "device 'cpu' default",
        f"images 'x' {PYPROJECT}",
        "labels - default",
        "gates.max_rate { warn = 0.001, fail = 0.002 } audit.toml",
        "gates.complete false audit.toml",
        f"gates.guard_held {text_from_value(DEFAULTS['guard_held'])} default",
    ):
        assert line in words
    assert len({line.index(" audit.toml") for line in lines if "audit.toml" in line}) == 1
    document = json.loads(run_audit("config", "--json", env=environ).stdout)
    assert document["eps"] == {"value": 0.1, "source": "audit.toml"}
    assert document["labels"] == {"value": None, "source": "default"}
    assert document["gates"]["max_rate"] == {
        "value": {"warn": 0.001, "fail": 0.002},
        "source": "audit.toml",
    }


def test_the_document_shows_what_audit_config_prints(run_audit: Run, tmp_path: Path) -> None:
    blocks = re.findall(r"```(\w*)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (shown,) = [text for language, text in blocks if language == ""]
    _, configured = [text for language, text in blocks if language == "toml"]
    (tmp_path / "audit.toml").write_text(configured)
    (tmp_path / "pyproject.toml").write_text('[tool.audit]\nimages = "x"')
    assert run_audit("config", env={**os.environ, "AUDIT_MODEL": "mnist"}).stdout == shown


def test_the_document_names_every_key_and_its_example_is_right() -> None:
    text = DOCUMENT.read_text()
    assert [key for key in EXPECTED if f"`{key}`" not in text] == []
    example = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0]
    Path("audit.toml").write_text(example)
    config = load_config()
    assert {*config.values, "gates"} == {*EXPECTED}
    read_gates(config.gates)


def test_audit_config_judges_gates_too(run_audit: Run, tmp_path: Path) -> None:
    (tmp_path / "audit.toml").write_text("gates.max_rate = 3")
    done = run_audit("config")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("Error: audit.toml: max_rate ")
    assert "expected a share of the samples, 0 to 1" in done.stderr


def few(folder: Path, mnist_h5: Path, images: str, labels: str) -> None:
    """`few.h5`, 60 samples under these names, beside what fits neither."""
    with h5py.File(mnist_h5) as source:
        x, y = source["images"][:60], source["labels"][:60]
    with h5py.File(folder / "few.h5", "w") as file:
        file[images], file[labels], file["decoy"] = x, y, np.zeros(3)


def test_options_over_audit_toml_over_pyproject(
    run_audit: Run, tmp_path: Path, mnist_h5: Path
) -> None:
    few(tmp_path, mnist_h5, "odd", "even")
    (tmp_path / "pyproject.toml").write_text(
        "[tool.audit]\nmodel = 'mnist'\neps = 2\nimages = 'odd'\nlabels = 'decoy'\nmin_logit = 3\n"
    )
    (tmp_path / "audit.toml").write_text("eps = 8\nlabels = 'even'")
    done = run_audit("scan", "few.h5", check=True)
    findings = audit.load_findings(tmp_path / "few.findings.h5")
    assert (findings.eps, findings.min_logit) == (8.0, 3.0)
    assert (findings.dataset["images"], findings.dataset["labels"]) == ("odd", "even")
    assert "ε = 8, largest logit > 3" in done.stdout
    run_audit("scan", "few.h5", "--eps", "0.5", "--min-logit", "1", check=True)
    findings = audit.load_findings(tmp_path / "few.findings.h5")
    assert (findings.eps, findings.min_logit) == (0.5, 1.0)


def test_ascend_names_a_dataset_by_configuration_and_findings_not(
    run_audit: Run, tmp_path: Path, mnist_h5: Path
) -> None:
    few(tmp_path, mnist_h5, "odd", "even")
    (tmp_path / "audit.toml").write_text(
        "model = 'mnist'\neps = 8\nimages = 'odd'\nlabels = 'even'"
    )
    run_audit("scan", "few.h5", check=True)
    (tmp_path / "audit.toml").write_text(
        "model = 'no-such'\nimages = 'odd'\nlabels = 'even'"
    )  # the findings' own bundle is taken
    run_audit("ascend", "few.findings.h5", check=True)
    done = run_audit("ascend", "few.findings.h5", "--images", "odd")
    assert "is for a dataset" in done.stderr
    done = run_audit("ascend", "few.h5", "--index", "3", "--model", "mnist", "-o", "a.h5")
    assert (done.returncode, done.stderr) == (0, "")
    assert audit.load_ascents(tmp_path / "a.h5").dataset["images"] == "odd"
    done = run_audit("ascend", "no-such.h5")
    assert (done.returncode, "no such file" in done.stderr) == (2, True)


def test_export_names_its_data_by_configuration(
    run_audit: Run, tmp_path: Path, mnist_h5: Path
) -> None:
    few(tmp_path, mnist_h5, "odd", "even")
    (tmp_path / "m.py").write_text(
        "from torch import nn\n\n\ndef make() -> nn.Module:\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    args = [
        "export",
        "m.py:make",
        "--input-shape",
        "1,28,28",
        "--parity-data",
        "few.h5",
        "-o",
        "bundle",
    ]
    done = run_audit(*args)
    assert done.returncode == 2
    assert "--images" in done.stderr
    (tmp_path / "audit.toml").write_text("images = 'odd'")
    run_audit(*args, check=True)
    assert load_bundle(tmp_path / "bundle").manifest.parity.samples == 60
    done = run_audit(*args, "--images", "even")
    assert done.returncode == 2  # labels are no images


def test_gates_reach_audit_check(run_audit: Run, tmp_path: Path, mnist_h5: Path) -> None:
    run_audit("scan", mnist_h5, "--eps", "0.1", check=True)
    for gates, code in {"max_rate = 1": 0, "max_count = 3": 1, "max_counts = 3": 2}.items():
        (tmp_path / "pyproject.toml").write_text(f"[tool.audit.gates]\n{gates}")
        assert run_audit("check", "mnist.findings.h5").returncode == code
    (tmp_path / "pyproject.toml").write_text("tool.audit.gates.max_count = 3")
    (tmp_path / "audit.toml").write_text("gates.max_count = false")
    assert run_audit("check", "mnist.findings.h5").returncode == 0
    assert run_audit("check", "mnist.findings.h5", "--gate", "max_count=3").returncode == 1


@pytest.mark.parametrize("command", ["scan", "ascend"])
def test_device(command: str, run_audit: Run, tmp_path: Path) -> None:
    assert "[default: cpu]" in run_audit(command, "--help").stdout
    (tmp_path / "audit.toml").write_text("device = 'tensorrt'")
    assert "[default: tensorrt]" in run_audit(command, "--help").stdout


def test_library_takes_the_model_and_nothing_else(mnist_h5: Path) -> None:
    Path("audit.toml").write_text(
        "model = 'mnist'\neps = 8\nimages = 'none'\ndevice = 'tensorrt'\nmin_logit = 1e9"
    )
    with pytest.raises(TypeError, match="eps"):
        audit.scan(mnist_h5, out="out.h5")  # type: ignore[call-arg]
    findings = audit.scan(mnist_h5, eps=0.1, limit=50, out="out.h5")
    assert findings.min_logit is None
    assert findings.dataset["images"] == "images"


@pytest.mark.parametrize(
    ("text", "environ", "args", "message"),
    [
        ("images = 'x'", {}, (), "no dataset 'x'; found 'images', 'labels'. Name one with --images"
         " (--images x is from audit.toml)"),
        ("images = 'x'", {}, ("--images", "y"), "Name one with --images\n"),
        ("labels = 'x'", {}, (), "(--labels x is from audit.toml)"),
        ("model = 'no'", {}, (), "no: no such bundle; expected a directory made by 'audit export', "
         "or one of mnist (the model is from audit.toml)"),
        ("model = './bundle'", {}, (), "model.ts: not the file that was exported (its SHA-256 or "
         "size differs from the manifest); export the model again (the model is from audit.toml)"),
        ("model = 'a'", {"AUDIT_MODEL": "no"}, (), "(the model is from environment AUDIT_MODEL)"),
        ("model = 'a'", {"AUDIT_MODEL": "b"}, ("--model", "c"), "c: no such bundle; expected a "
         "directory made by 'audit export', or one of mnist\n"),
        ("eps = -1", {}, (), "audit.toml: eps -1.0: expected a finite number above 0"),
        ("eps = -1", {}, ("--eps", "0.1"), "audit.toml: eps -1.0: expected a finite number"),
    ],
)  # fmt: skip
def test_errors_say_where_a_value_is_from(
    text: str,
    environ: dict[str, str],
    args: tuple[str, ...],
    message: str,
    run_audit: Run,
    tmp_path: Path,
    mnist_h5: Path,
) -> None:
    shutil.copytree(SHIPPED / "mnist", tmp_path / "bundle")
    with (tmp_path / "bundle" / "model.ts").open("ab") as file:
        file.write(b"!")
    (tmp_path / "audit.toml").write_text(f"{text}\n")
    (tmp_path / "pyproject.toml").write_text("tool.audit.eps = 0.1")
    clean = {name: value for name, value in os.environ.items() if name != "AUDIT_MODEL"}
    done = run_audit("scan", mnist_h5, *args, env=clean | environ)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr


def test_no_eps_anywhere(run_audit: Run, mnist_h5: Path) -> None:
    done = run_audit("scan", mnist_h5)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "Error: Missing option '--eps'; give one, such as --eps 0.1, or write eps = 0.1 into "
        "audit.toml. See 'python -m audit scan --help'.\n"
    )


@pytest.mark.parametrize("text", ["eps =", "epss = 1", "eps = -1"])
def test_commands_that_need_no_configuration_read_none(
    text: str, run_audit: Run, tmp_path: Path, mnist_h5: Path
) -> None:
    (tmp_path / "audit.toml").write_text("eps = 0.1\nmodel = 'mnist'")
    run_audit("scan", mnist_h5, check=True)
    (tmp_path / "audit.toml").write_text(text)
    for command in ("scan", "ascend", "config"):
        assert run_audit(command, "--help").returncode == 0
        done = run_audit(command, *([] if command == "config" else [mnist_h5]))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Error: audit.toml: ")
    for args in (
        ("info", mnist_h5),
        ("data", "mnist", "-o", "m.h5"),
        ("figure", "mnist.findings.h5", "--closest", "1"),
        ("--version",),
    ):
        done = run_audit(*args)
        assert (done.returncode, done.stderr) == (0, "")
