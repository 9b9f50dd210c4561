"""`audit export` as a user runs it, and what it does to what is there already."""

from __future__ import annotations

import io
import signal
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

import audit
from audit.bundle import MANIFEST, ONNX, PT2, TORCHSCRIPT, Bundle, load_bundle
from audit.cli import main
from audit.errors import BundleError, OptionError, OutputError, ParityError
from audit.folding import RawGraphs
from audit.gradients import Canonical
from audit.guard import SAFETY
from audit.parity import prove_parity
from audit.samples import PARITY_BYTES, Samples
from audit.torchscript import module_from_torchscript, profiling_execution
from conftest import Run
from oracles import write_dataset

NETS = """
import torch
from torch import nn

def colours():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 4, 3))

class Wild(nn.Module):
    # float32 knows nothing of the sine of a hundred million.
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        return torch.sin(1e8 * self.linear(x))

def small():
    return nn.Linear(6, 3)

def fails():
    raise OSError("first line\\nsecond line")
"""
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where `run_audit` runs: nets.py, weights, and forty RGB images of 6 x 6."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "names.txt").write_text("red\n\n  dark green \nblau, hell\n", encoding="utf-8")
    (tmp_path / "latin1.txt").write_bytes("grün\nblau\nrot".encode("latin-1"))
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "colours.h5", "w") as file:
        file["images"] = rng.integers(0, 256, (40, 6, 6, 3), dtype=np.uint8)
    with h5py.File(tmp_path / "wide.h5", "w") as file:
        file["images"] = rng.integers(0, 9, (40, 6), dtype=np.int64)
    save_file(colours().state_dict(), tmp_path / "colours.safetensors")
    return tmp_path


def colours() -> torch.nn.Module:
    namespace: dict[str, object] = {}
    exec(NETS, namespace)
    torch.manual_seed(0)
    made = namespace["colours"]()  # type: ignore[operator]
    assert isinstance(made, torch.nn.Module)
    return made


def test_every_option_arrives(folder: Path, run_audit: Run) -> None:
    arguments = (
        "export nets.py:colours --weights colours.safetensors --input-shape 3,6,6 --scale 1/255 "
        "--offset 0 --mean 0.4,0.5,0.6 --std 0.2,0.25,0.3 --classes names.txt "
        "--parity-data colours.h5 --pt2 -o bundle"
    )
    result = run_audit(*arguments.split())
    assert result.stderr == ""
    assert result.returncode == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["raw"] == "uint8 HWC (6, 6, 3)"
    assert lines["classes"] == "3"
    assert lines["parity"].startswith("40 colours.h5 samples: max |Δlogit| ")
    assert lines["bundle"] == "bundle (model.onnx, model.ts, model.pt2)"

    bundle = load_bundle(folder / "bundle")
    manifest = bundle.manifest
    preprocess, parity = manifest.preprocess, manifest.parity
    assert manifest.name == "bundle"
    assert manifest.classes == ("red", "dark green", "blau, hell")
    assert (preprocess.scale, preprocess.offset) == (1 / 255, 0.0)
    assert (preprocess.mean, preprocess.std) == (MEAN, STD)
    assert (preprocess.raw_dtype, preprocess.raw_layout) == ("uint8", "HWC")
    assert (parity.source, parity.samples, parity.top1_disagreements) == ("colours.h5", 40, 0)
    assert parity.guard >= SAFETY * max(parity.max_logit_difference, parity.max_margin_difference)
    assert set(manifest.files) == {ONNX, TORCHSCRIPT, PT2}
    assert {each.name for each in folder.iterdir()} >= {"bundle", "nets.py"}
    assert not [each for each in folder.iterdir() if each.name.startswith(".")]

    # The weights and the normalisation are those that were named.
    x = torch.rand(5, 3, 6, 6)
    normalised = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        expected = colours()(normalised).numpy()
    canonical = Canonical(bundle.read(TORCHSCRIPT), device="cpu", threads=1, source="bundle")
    np.testing.assert_allclose(canonical.logits(x.numpy()), expected, atol=1e-5)
    program = torch.export.load(io.BytesIO(bundle.read(PT2))).module()
    np.testing.assert_allclose(program(x).detach().numpy(), expected, atol=1e-5)


def test_replaced_by_another_with_a_list_of_classes(folder: Path, run_audit: Run) -> None:
    first = audit.export(torch.nn.Linear(6, 2), folder / "bundle", input_shape=(6,), pt2=True)
    names = ["a" * 100, "b c", "d" * 200]  # together too long for the name of a file
    options = ["--input-shape", "6", "--offset", "-1/3", "-o", "bundle"]
    listed = f"{names[0]}, {names[1]},{names[2]}"
    result = run_audit("export", "nets:small", *options, "--classes", listed)
    assert (result.returncode, result.stderr) == (0, "")
    bundle = load_bundle(folder / "bundle")
    assert bundle.manifest_sha256 != first.manifest_sha256
    assert bundle.manifest.classes == tuple(names)
    assert bundle.manifest.preprocess.offset == -1 / 3
    assert bundle.manifest.parity.source == "random"
    assert {each.name for each in bundle.path.iterdir()} == {MANIFEST, ONNX, TORCHSCRIPT}
    assert not [each for each in folder.iterdir() if each.name.startswith(".")]


def test_parity_failure_is_exit_code_1(folder: Path, run_audit: Run) -> None:
    before = sorted(folder.iterdir())
    result = run_audit("export", "nets.py:Wild", "--input-shape", "6", "-o", "bundle")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: the network's own logits in float32 and float64 differ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert sorted(each for each in folder.iterdir() if each.name != "__pycache__") == before


def test_disturbed_onnx_weights_are_found(mnist_bundle: Bundle) -> None:
    preprocess = mnist_bundle.manifest.preprocess
    samples = Samples(preprocess.random_raw(32, np.random.default_rng(0)), "random", preprocess)
    canonical = Canonical(
        mnist_bundle.read(TORCHSCRIPT), device="cpu", threads=2, source=TORCHSCRIPT
    )
    good = prove_parity(RawGraphs(mnist_bundle.read(ONNX), None), canonical, samples).parity
    assert good.max_logit_difference < 1e-4 * good.logit_scale
    model = onnx.load_from_string(mnist_bundle.read(ONNX))
    weights = max(model.graph.initializer, key=lambda each: int(np.prod(each.dims)))
    values = numpy_helper.to_array(weights)
    weights.CopyFrom(numpy_helper.from_array(values * np.float32(1.02), weights.name))
    with pytest.raises(ParityError, match="on 32 random samples") as caught:
        prove_parity(RawGraphs(model.SerializeToString(), None), canonical, samples)
    assert caught.value.exit_code == 1


def test_parity_data_that_overflows(folder: Path) -> None:
    with h5py.File(folder / "inf.h5", "w") as file:
        samples = np.zeros((40, 6), np.float32)
        samples[30:] = np.nan
        file["images"] = samples
    with pytest.raises(ParityError, match=r"logits of inf\.h5 samples are NaN or infinite"):
        audit.export(
            torch.nn.Linear(6, 3),
            folder / "bundle",
            input_shape=(6,),
            parity_data=folder / "inf.h5",
        )
    assert not (folder / "bundle").exists()


@pytest.mark.parametrize("raw_dtype", [None, "uint8"])
def test_parity_data_of_another_kind(raw_dtype: str | None, folder: Path) -> None:
    with pytest.raises(OptionError, match="parity data's samples are int64, which can't stand for"):
        audit.export(
            torch.nn.Linear(6, 3),
            folder / "bundle",
            input_shape=(6,),
            raw_dtype=raw_dtype,
            parity_data=folder / "wide.h5",
        )
    assert not (folder / "bundle").exists()


WEB_APP = '{"name": "web app", "icons": []}'


@pytest.mark.parametrize(
    "there",
    [
        {"notes.txt": "mine"},
        {},
        {MANIFEST: WEB_APP},
        {MANIFEST: WEB_APP, "index.html": "mine"},
        {MANIFEST: '{"schema": "audit-bundle/1"}', "notes.txt": "mine"},
    ],
    ids=["folder", "empty folder", "web app alone", "web app", "bundle with notes"],
)
def test_only_bundles_are_replaced(there: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, text in there.items():
        (out / name).write_text(text)
    with pytest.raises(OutputError, match="exists and is not a bundle; name another directory"):
        audit.export(torch.nn.Linear(6, 3), out, input_shape=(6,))
    assert {each.name: each.read_text() for each in out.iterdir()} == there
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("kind", ["file", "dangling link", "no parent", "not writable"])
def test_no_place_for_a_bundle(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expected = "exists and is not a bundle"
    if kind == "file":
        out.write_text("mine")
    elif kind == "dangling link":
        out.symlink_to("absent/folder")
        expected = "absent: no such directory; create it"
    elif kind == "no parent":
        out = tmp_path / "absent" / "out"
        expected = "absent: no such directory; create it"
    else:
        out = Path("/proc/out")
        expected = "/proc/out: can't be written"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match=expected):
        audit.export(torch.nn.Linear(6, 3), out, input_shape=(6,))
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_bundle_behind_a_link_is_replaced(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    audit.export(torch.nn.Linear(6, 2), real, input_shape=(6,))
    (real / TORCHSCRIPT).unlink()
    (real / ONNX).write_text("damaged")
    link.symlink_to("real")
    audit.export(torch.nn.Linear(6, 3), link, input_shape=(6,))
    assert sorted(tmp_path.iterdir()) == [link, real]
    assert link.is_symlink()
    assert load_bundle(link).manifest.classes == ("0", "1", "2")


def test_parity_counts_what_there_is(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data.h5", np.eye(5, 6, dtype=np.float32))
    model = torch.nn.Linear(6, 3).eval()
    bundle = audit.export(model, tmp_path / "bundle", input_shape=(6,), parity_data=data)
    assert bundle.manifest.parity.samples == 5
    assert bundle.manifest.producer.keys() & {"onnxruntime", "onnxruntime-gpu"}


def test_random_samples_fit_in_memory(tmp_path: Path) -> None:
    model = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 3)
    ).eval()
    shape = (3, 384, 384)
    bundle = audit.export(model, tmp_path / "b", input_shape=shape, raw_layout="CHW")
    assert bundle.manifest.parity.samples == PARITY_BYTES // (4 * 3 * 384 * 384)


def test_files_are_reproducible_and_name_no_path(folder: Path, run_audit: Run) -> None:
    """In a process of its own each: torch numbers the classes that it has traced."""
    for out in ("one", "two"):
        options = ("--weights", "colours.safetensors", "--raw-layout", "CHW", "--pt2", "-o", out)
        done = run_audit("export", "nets.py:colours", "--input-shape", "3,6,6", *options)
        assert (done.returncode, done.stderr) == (0, "")
    for name in (ONNX, TORCHSCRIPT):
        assert (folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes()
    source = Path(audit.__file__).parents[1]
    paths = [str(folder), str(source), str(Path(torch.__file__).parents[1]), "site-packages"]
    for file in (folder / "one").iterdir():
        contents = [file.read_bytes()]
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                contents += [archive.read(name) for name in archive.namelist()]
        for path in paths:
            assert not any(path.encode() in each for each in contents), (file.name, path)


class Saves(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "saved.pt")
        return x


class Branches(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.saves = Saves()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() > 1000000:
            return self.saves(x)  # type: ignore[no-any-return]
        return x


class Elsewhere(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def other(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_file("saved.pt", False, 4)


@pytest.mark.parametrize(
    ("kind", "operator"),
    [(Saves, "aten::save"), (Branches, "aten::save"), (Elsewhere, "aten::from_file")],
)
def test_torchscript_that_touches_files_is_refused(
    kind: type[torch.nn.Module], operator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    with profiling_execution():
        torch.jit.save(torch.jit.script(kind()), buffer)
    with pytest.raises(BundleError, match=f"model.ts: uses {operator}, which no exported"):
        module_from_torchscript(buffer.getvalue(), TORCHSCRIPT)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def sigint_as_it_was() -> Iterator[None]:
    """`main` ends with SIGINT ignored, which this process's children would inherit."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


# Through `main` in this process: another one would spend seconds on importing torch.
@pytest.mark.usefixtures("sigint_as_it_was")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Missing argument 'MODULE_OR_FILE.py:FACTORY'"),
        ("nets.py:small -o b", "Missing option '--input-shape'"),
        ("nets.py:small --input-shape 6", "Missing option '-o'"),
        ("nets.py:small --input-shape six -o b", "'six': expected numbers with commas between"),
        ("nets.py:small --input-shape 6.5 -o b", "'6.5': expected numbers with commas between"),
        ("nets.py:small --input-shape 6, -o b", "'6,': expected numbers with commas between"),
        ("nets.py:small --input-shape 0 -o b", "--input-shape 0: expected the network's input"),
        ("nets.py:small --input-shape -6 -o b", "--input-shape -6: expected the network's input"),
        ("nets.py:small --input-shape 6 --scale 1/0 -o b", "'1/0': expected numbers"),
        ("nets.py:small --input-shape 6 --scale 1,2 -o b", "expected one number"),
        ("nets.py:small --input-shape 6 --scale 0 -o b", "--scale 0.0: expected a finite number"),
        ("nets.py:small --input-shape 6 --scale nan -o b", "--scale nan: expected a finite number"),
        ("nets.py:small --input-shape 6 --std 0 -o b", "expected finite numbers above 0"),
        ("nets.py:small --input-shape 6 --mean 1,2 -o b", "--mean: got 2 numbers; expected 1, or"),
        ("nets.py:small --input-shape 6 --raw-dtype int8 -o b", "'int8' is not one of 'uint8',"),
        ("nets.py:small --input-shape 6 --raw-layout HW -o b", "can be stored as F"),
        ("nets.py:colours --input-shape 3,6,6 -o b", "say which with --raw-layout"),
        ("nets.py:small --input-shape 6 --classes one -o b", "--classes: got 1 names"),
        ("nets.py:small --input-shape 6 --classes a,b -o b", "--classes names 2 classes; the net"),
        ("nets.py:small --input-shape 6 --classes latin1.txt -o b", "not a text file in UTF-8"),
        ("nets.py:small --input-shape 6 --parity-data absent.h5 -o b", "absent.h5"),
        ("nets.py:small --input-shape 6 --parity-data wide.h5 -o b", "samples are int64"),
        ("nets.py:small --input-shape 6 --parity-data colours.h5 -o b", "shape (6, 6, 3), which"),
        ("nets.py:small --input-shape 6 --weights absent.pt -o b", "absent.pt: no such file"),
        ("nets.py:small --input-shape 6 --weights colours.safetensors -o b", "doesn't fit the"),
        ("nets.py:small --input-shape 6 -o nets.py", "exists and is not a bundle"),
        ("nets.py:small --input-shape 6 -o .", "exists and is not a bundle"),
        ("nets.py:absent --input-shape 6 -o b", "no 'absent'; found"),
        ("nets.py:fails --input-shape 6 -o b", "raised OSError: first line second line"),
        ("nets.py:small --input-shape 7 -o b", "--input-shape is the shape of one sample"),
    ],
)
def test_wrong_use(
    arguments: str,
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = sorted(folder.iterdir())
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["audit", "export", *arguments.split()])
    monkeypatch.setattr("sys.path", sys.path.copy())
    with pytest.raises(SystemExit) as caught:
        main()
    sys.modules.pop("nets", None)  # the factory's file; another test has one of that name
    captured = capfd.readouterr()
    assert caught.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(each for each in folder.iterdir() if each.name != "__pycache__") == before


def test_wrong_use_in_a_process_of_its_own(folder: Path, run_audit: Run) -> None:
    result = run_audit("export", "nets.py:small", "--input-shape", "7", "-o", "b")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    assert "(16, 7)" in result.stderr
