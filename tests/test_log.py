"""Findings in every tracker's own store, read back."""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import audit
from audit import Findings
from audit.errors import FindingsError, InstallationError, OptionError, OutputError
from conftest import Run

# wandb's, of its own settings; MLflow's, of its file store: theirs to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(wandb|mlflow|pydantic).*")

CLOSEST = 2
ENVIRONMENT = {
    # The other local store, SQLite, isn't in mlflow-skinny.
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
}
# From the arrays, by their definitions.
METRICS: dict[str, Callable[[Findings], float]] = {
    "scanned": lambda each: 10_000,
    "flagged": lambda each: len(each.index),
    "rate": lambda each: len(each.index) / 10_000,
    "accuracy": lambda each: each.correct / each.labelled,
    "accuracy_flagged": lambda each: float((each.label == each.classes[:, 0]).mean()),
    "nonfinite": lambda each: 0,
    "degenerate": lambda each: 0,
    "rescans": lambda each: 0,
    "median_margin": lambda each: float(np.median(each.margin)),
    "min_margin": lambda each: float(each.margin.min()),
    "median_distance_l2": lambda each: float(np.median(each.distance_l2)),
    "min_distance_l2": lambda each: float(each.distance_l2.min()),
    "median_distance_linf": lambda each: float(np.median(each.distance_linf)),
    "min_distance_linf": lambda each: float(each.distance_linf.min()),
}
OF_GRADIENTS = {name for name in METRICS if "distance" in name} | {"degenerate"}


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield
    import wandb

    assert wandb.run is None
    wandb.teardown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scans")


@pytest.fixture(scope="module")
def findings(mnist_h5: Path, folder: Path) -> Findings:
    return audit.scan(mnist_h5, model="mnist", eps=0.1, out=folder / "new.h5")


@pytest.fixture(scope="module")
def earlier(mnist_h5: Path, folder: Path) -> Findings:
    return audit.scan(mnist_h5, model="mnist", eps=0.05, out=folder / "old.h5")


def expected(findings: Findings) -> dict[str, float]:
    return {f"near_ties/{name}": value(findings) for name, value in METRICS.items()}


def decoded(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.fixture(scope="module")
def sheets(findings: Findings, folder: Path) -> list[NDArray[np.uint8]]:
    """What `audit figure` draws of the closest ties."""
    paths = audit.figure(findings, folder / "figures", closest=CLOSEST)
    return [decoded(path.read_bytes()) for path in paths]


def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text("<p>a report")
    return path


def mlflow_run(uri: Path, experiment: str) -> Any:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=str(uri))
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    return run


def test_mlflow(findings: Findings, sheets: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    logged = audit.log(
        findings,
        to="mlflow",
        uri=tmp_path / "runs",
        experiment="robust",
        run="tonight",
        step=7,
        closest=CLOSEST,
        report=report(tmp_path),
    )
    run = mlflow_run(tmp_path / "runs", "robust")
    assert run.info.run_id in logged.where
    assert (run.info.run_name, run.info.status) == ("tonight", "FINISHED")
    assert run.data.metrics == expected(findings)
    assert (logged.metrics, logged.figures, logged.notes) == (len(METRICS), CLOSEST, ())
    parameters = run.data.params
    assert parameters["near_ties/eps"] == "0.1"
    assert parameters["near_ties/model"] == "mnist"
    assert parameters["near_ties/dataset_fingerprint"] == findings.dataset["fingerprint"]
    assert parameters["near_ties/model_sha256"] == findings.bundle["manifest_sha256"]
    assert "near_ties/min_logit" not in parameters
    artifacts = Path(run.info.artifact_uri.removeprefix("file://")) / "near_ties/step_00000007"
    assert {path.name for path in artifacts.iterdir()} == {
        "closest_1.png",
        "closest_2.png",
        "new.h5",
        "report.html",
    }
    assert (artifacts / "new.h5").read_bytes() == findings.path.read_bytes()
    for rank, sheet in enumerate(sheets, 1):
        pixels = decoded((artifacts / f"closest_{rank}.png").read_bytes())
        np.testing.assert_array_equal(pixels, sheet)


def test_mlflow_run_that_is_going_on(findings: Findings, earlier: Findings, tmp_path: Path) -> None:
    """Two scans in one run, which stays open; what differs is a tag."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(str(tmp_path / "runs"))
    try:
        with mlflow.start_run() as run:
            for step, each in enumerate((earlier, findings)):
                audit.log(each, to="mlflow", step=step, closest=0)
            active = mlflow.active_run()
            assert active is not None
            assert active.info.run_id == run.info.run_id
        client = mlflow.MlflowClient()
        history = client.get_metric_history(run.info.run_id, "near_ties/flagged")
        read = client.get_run(run.info.run_id)
    finally:
        mlflow.set_tracking_uri(before)
    assert [(each.step, each.value) for each in history] == [
        (0, earlier.flagged),
        (1, findings.flagged),
    ]
    assert read.data.params["near_ties/eps"] == "0.05"
    assert read.data.tags["near_ties/eps"] == "0.1"


def test_mlflow_that_refuses(
    findings: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")
    with pytest.raises(OutputError, match=r"^mlflow: MlflowException: [^\n]+$"):
        audit.log(findings, to="mlflow", uri=tmp_path / "runs", closest=0)


def test_mlflow_run_that_fails(
    findings: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It isn't left running."""
    gone = audit.load_findings(findings.path)
    copied = tmp_path / "gone.h5"
    copied.write_bytes(findings.path.read_bytes())
    gone = audit.load_findings(copied)
    assert len(gone.margin) == len(gone.index) == len(gone.label) == len(gone.classes)
    assert len(gone.distance_l2) == len(gone.distance_linf)
    copied.unlink()
    with pytest.raises(OutputError, match=r"gone\.h5"):
        audit.log(gone, to="mlflow", uri=tmp_path / "runs", closest=0)
    assert mlflow_run(tmp_path / "runs", "Default").info.status == "FAILED"


def test_tensorboard(findings: Findings, sheets: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged = audit.log(
        findings,
        to="tensorboard",
        uri=tmp_path / "tb",
        experiment="robust",
        run="tonight",
        step=7,
        closest=CLOSEST,
        report=report(tmp_path),
    )
    assert logged.where == str(tmp_path / "tb/robust/tonight")
    events = EventAccumulator(logged.where, size_guidance={"images": 0})
    events.Reload()
    read = {}
    for tag in events.Tags()["scalars"]:
        (event,) = events.Scalars(tag)
        assert event.step == 7
        read[tag] = event.value
    wanted = expected(findings)
    assert read.keys() == wanted.keys()
    for name, value in wanted.items():
        assert read[name] == np.float32(value)
    assert events.Tags()["images"] == [f"near_ties/closest_{rank}" for rank in (1, 2)]
    for rank, sheet in enumerate(sheets, 1):
        (image,) = events.Images(f"near_ties/closest_{rank}")
        np.testing.assert_array_equal(decoded(image.encoded_image_string), sheet)
    (text,) = events.Tensors("near_ties/parameters/text_summary")
    words = text.tensor_proto.string_val[0].decode()
    assert "| eps | `0.1` |" in words
    assert str(tmp_path / "report.html") in words


def wandb_records(run: Path) -> list[Any]:
    """What an offline run would send: LevelDB's log format, after a header of its own."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # a run that is finished may still be on its way to the disk
    record = getattr(wandb_internal_pb2, "Record")  # noqa: B009  # generated, unknown to mypy

    (log,) = run.glob("*.wandb")
    content = log.read_bytes()
    position, block, header = 7, 32768, 7
    parts: list[bytes] = []
    records = []
    while position + header <= len(content):
        if block - position % block < header:
            position += block - position % block
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        position += header
        parts.append(content[position : position + length])
        position += length
        if kind in (1, 4):  # whole, or the last of several
            records.append(record.FromString(b"".join(parts)))
            parts = []
    return records


def test_wandb(findings: Findings, sheets: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    logged = audit.log(
        findings,
        to="wandb",
        uri=tmp_path,
        experiment="robust",
        run="tonight",
        closest=CLOSEST,
        report=report(tmp_path),
    )
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert Path(logged.where).resolve() == run.resolve()
    records = wandb_records(run)
    (started,) = [each.run for each in records if each.WhichOneof("record_type") == "run"]
    assert (started.project, started.display_name) == ("robust", "tonight")
    history = [each.history for each in records if each.WhichOneof("record_type") == "history"]
    read = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for each in history
        for item in each.item
    }
    assert {name: read[name] for name in expected(findings)} == expected(findings)
    config = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for each in records
        if each.WhichOneof("record_type") == "config"
        for item in each.config.update
    }
    assert config["near_ties/eps"] == 0.1
    media = run / "files/media/images/near_ties"
    for rank, sheet in enumerate(sheets, 1):
        (path,) = media.glob(f"closest_{rank}_*.png")
        np.testing.assert_array_equal(decoded(path.read_bytes()), sheet)
    (artifact,) = [
        each.request.log_artifact.artifact if each.HasField("request") else each.artifact
        for each in records
        if each.WhichOneof("record_type") == "artifact"
    ]
    assert artifact.name == "near_ties-mnist"
    assert {entry.path for entry in artifact.manifest.contents} == {"new.h5", "report.html"}


def test_wandb_run_that_is_going_on(findings: Findings, tmp_path: Path) -> None:
    import wandb

    with wandb.init(dir=tmp_path) as run:
        logged = audit.log(findings, to="wandb", closest=0)
        assert wandb.run is run
        assert run.summary["near_ties/flagged"] == findings.flagged
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1
    assert run.id in logged.where


@pytest.fixture(params=["mlflow", "tensorboard"])
def read_metrics(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., dict[str, float]]:
    """Log and read the metrics back."""

    def read(findings: Findings, **options: Any) -> dict[str, float]:
        folder = tmp_path / "store"
        audit.log(findings, to=request.param, uri=folder, closest=0, **options)
        if request.param == "mlflow":
            return dict(mlflow_run(folder, "Default").data.metrics)
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder))
        events.Reload()
        return {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}

    return read


def test_what_is_unknown_is_left_out(
    read_metrics: Callable[..., dict[str, float]], mnist_h5: Path, tmp_path: Path
) -> None:
    unlabelled = tmp_path / "unlabelled.h5"
    with h5py.File(mnist_h5) as file, h5py.File(unlabelled, "w") as copied:
        copied["images"] = file["images"][:2000]
    findings = audit.scan(
        unlabelled, model="mnist", eps=0.1, no_gradients=True, out=tmp_path / "few.h5"
    )
    read = read_metrics(findings)
    unknown = OF_GRADIENTS | {"accuracy", "accuracy_flagged"}
    assert read.keys() == {f"near_ties/{name}" for name in METRICS.keys() - unknown}
    assert all(map(math.isfinite, read.values()))


def test_nothing_flagged(
    read_metrics: Callable[..., dict[str, float]], mnist_h5: Path, tmp_path: Path
) -> None:
    findings = audit.scan(mnist_h5, model="mnist", eps=1e-6, out=tmp_path / "none.h5")
    assert findings.flagged == 0
    read = read_metrics(findings)
    assert read["near_ties/rate"] == 0
    assert not any("median" in name or "min_" in name for name in read)


def test_baseline(
    read_metrics: Callable[..., dict[str, float]], findings: Findings, earlier: Findings
) -> None:
    read = read_metrics(findings, baseline=earlier.path)
    new = set(findings.index.tolist()) - set(earlier.index.tolist())
    assert len(new) == findings.flagged - earlier.flagged > 0
    assert read["near_ties/new"] == len(new)
    assert read["near_ties/left"] == read["near_ties/class_flips"] == 0
    assert read["near_ties/rate_change"] == pytest.approx(len(new) / 10_000)


def test_baseline_of_another_dataset(findings: Findings, tmp_path: Path, mnist_h5: Path) -> None:
    other = tmp_path / "other.h5"
    with h5py.File(mnist_h5) as file, h5py.File(other, "w") as copied:
        copied["images"] = file["images"][:100]
    old = audit.scan(other, model="mnist", eps=0.1, out=tmp_path / "old.h5")
    with pytest.raises(FindingsError, match="different datasets"):
        audit.log(findings, to="tensorboard", baseline=old)
    assert not (tmp_path / "runs").exists()


def test_without_gradients_the_rest_is_logged(mnist_h5: Path, tmp_path: Path) -> None:
    findings = audit.scan(
        mnist_h5, model="mnist", eps=0.1, no_gradients=True, out=tmp_path / "flags.h5"
    )
    logged = audit.log(findings, to="tensorboard", uri=tmp_path / "tb")
    (note,) = logged.notes
    assert note.startswith("no figures: ")
    assert "scan again with gradients" in note
    assert (logged.figures, logged.metrics) == (0, len(METRICS.keys() - OF_GRADIENTS))


HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""


def hide(folder: Path, monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """From a process that is started next."""
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(HIDE.format(packages=packages))
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))


def test_without_matplotlib(
    findings: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_audit: Run
) -> None:
    hide(tmp_path, monkeypatch, "matplotlib", "PIL")
    done = run_audit("log", findings.path, "--to", "tensorboard")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "logged    14 metrics, 0 figures to tensorboard\n"
        f"files     {findings.path}\n"
        "note      no figures: matplotlib is not installed: pip install 'near-tie-audit[plot]'\n"
        "where     runs\n"
    )


@pytest.mark.parametrize(
    ("tracker", "extra"),
    [
        ("mlflow", "mlflow"),
        ("wandb", "wandb"),
        ("tensorboard", "near-tie-audit[lightning]"),
    ],
)
def test_tracker_that_is_not_installed(
    tracker: str,
    extra: str,
    findings: Findings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_audit: Run,
) -> None:
    hide(tmp_path, monkeypatch, tracker)
    done = run_audit("log", findings.path, "--to", tracker)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: {tracker} is not installed: pip install '{extra}'\n"
    assert issubclass(InstallationError, ImportError)


def test_command(findings: Findings, run_audit: Run) -> None:
    """It says what it did."""
    args = ("log", findings.path, "--to", "tensorboard", "--dir", "tb", "--closest", "1")
    done = run_audit(*args)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"logged    14 metrics, 1 figures to tensorboard\nfiles     {findings.path}\nwhere     tb\n"
    )
    done = run_audit(*args, "--json")
    assert json.loads(done.stdout) == {
        "to": "tensorboard",
        "where": "tb",
        "metrics": 14,
        "figures": 1,
        "files": [str(findings.path)],
        "notes": [],
    }
    assert run_audit(*args, "--quiet").stdout == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "neptune"}, "--to neptune: expected one of mlflow, wandb, tensorboard"),
        ({"closest": -1}, "--closest -1: expected 0 or more"),
        ({"step": -1}, "--step -1: expected 0 or more"),
        ({"step": 1.5}, "--step 1.5: expected 0 or more"),
        ({"run": ""}, "--run: empty; leave it out"),
        ({"report": "gone.html"}, "--report gone.html: no such file; 'audit report' writes it"),
    ],
)
def test_bad_options(findings: Findings, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as raised:
        audit.log(findings, **{"to": "tensorboard", **options})
    assert str(raised.value) == message


def test_file_that_is_no_findings(tmp_path: Path, run_audit: Run) -> None:
    (tmp_path / "some.h5").write_text("no")
    done = run_audit("log", "some.h5", "--to", "tensorboard")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: some.h5: ")
    assert done.stderr.count("\n") == 1
