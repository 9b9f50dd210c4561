"""An ascent: each step against plain eager steps, and the file against what was computed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import audit
from ascents import Shipped, objective_value, walk_alone
from audit.ascent import OUTCOMES, Ascents, load_ascents
from audit.ascent_writer import AscentRows, Minimal
from audit.bundle import Bundle, load_bundle
from audit.climb import _Frames
from audit.errors import AscentError, DatasetError, OptionError, OutputError
from networks import linear, seeded
from oracles import all_logits, arrays, write_dataset

NORMS = ("l2", "linf")
OBJECTIVES = ("prob", "logit", "margin")


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory, mnist_h5: Path) -> Path:
    """40 images of MNIST. Read only."""
    path = tmp_path_factory.mktemp("few") / "few.h5"
    with h5py.File(mnist_h5) as source:
        write_dataset(path, source["images"][:40], source["labels"][:40])
    return path


@pytest.fixture(scope="session")
def findings_h5(tmp_path_factory: pytest.TempPathFactory, few: Path) -> Path:
    """Those of them whose margin is below 9. Read only."""
    out = tmp_path_factory.mktemp("findings") / "few.findings.h5"
    audit.scan(few, eps=9.0, model="mnist", out=out)
    return out


@pytest.fixture(scope="session")
def shipped(mnist_bundle: Bundle) -> nn.Module:
    return Shipped(mnist_bundle)


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory, few: Path) -> Ascents:
    """Every target of six images, with the smallest perturbations. Read only."""
    out = tmp_path_factory.mktemp("all") / "all.ascent.h5"
    return audit.ascend(few, index=range(6), target="all", minimal=True, model="mnist", out=out)


def in_input_space(raw: NDArray[Any]) -> NDArray[np.float64]:
    x = (raw.astype(np.float64) * (1 / 255)).astype(np.float32).astype(np.float64)
    return x[:, None] if raw.ndim == 3 else x


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)], ids=["free", "clip"])
def test_steps_are_those_of_one_sample_alone_in_eager_float64(
    norm: str,
    objective: str,
    clip: tuple[float, float] | None,
    shipped: nn.Module,
    few: Path,
    tmp_path: Path,
) -> None:
    step = {"l2": 0.2, "linf": 0.02}[norm]
    found = audit.ascend(
        few, index=[3, 8, 18], target=2, norm=norm, objective=objective, step=step, model="mnist",
        clip=clip or (-np.inf, np.inf), max_steps=6, frames=20, out=tmp_path / "a.h5",
    )  # fmt: skip
    for row in range(3):
        start = in_input_space(found.input[[row]])[0]
        steps = int(found.steps[row])
        inputs = walk_alone(
            shipped, start, 2, step=step, steps=steps, norm=norm, objective=objective, clip=clip
        )
        np.testing.assert_allclose(found.final[row], inputs[-1], rtol=0, atol=1e-9)
        frames = found.frames_of(row)
        np.testing.assert_array_equal(frames.step, np.arange(steps + 1))
        np.testing.assert_allclose(frames.input, np.array(inputs), rtol=0, atol=1e-7)
        path, logits = found.path_of(row), all_logits(shipped, np.array(inputs))
        probability = torch.softmax(torch.from_numpy(logits), 1).numpy()
        pair = probability[:, [found.start_class[row], 2]]
        np.testing.assert_allclose(path.probability, pair, rtol=1e-6, atol=1e-12)
        margin = [float(objective_value(torch.from_numpy(z), 2, "margin")) for z in logits]
        np.testing.assert_allclose(path.margin, margin, rtol=0, atol=1e-7)
        assert np.all(np.argmax(logits[:-1], axis=1) != 2)
        assert found.final_class[row] == logits[-1].argmax()
        assert found.success[row] == (found.final_class[row] == 2)


def test_direction_by_finite_differences(shipped: nn.Module, few: Path, tmp_path: Path) -> None:
    """The first step of an L2 ascent goes along the slope of the target's log-probability."""
    found = audit.ascend(
        few, index=4, target=9, step=1e-3, max_steps=1, model="mnist", clip=(-9, 9),
        out=tmp_path / "a.h5",
    )  # fmt: skip
    x = in_input_space(found.input)[0]
    taken = (found.final[0] - x) / 1e-3
    assert np.linalg.norm(taken) == pytest.approx(1, rel=1e-9)
    slopes = []
    pixels = np.argsort(-np.abs(taken.ravel()))[:20]
    for pixel in pixels:
        delta = np.zeros(x.size)
        delta[pixel] = 1e-5
        moved = all_logits(
            shipped, np.stack([x.ravel() + delta, x.ravel() - delta]).reshape(-1, *x.shape)
        )
        high, low = torch.log_softmax(torch.from_numpy(moved), 1)[:, 9].tolist()
        slopes.append((high - low) / 2e-5)
    ratio = np.array(slopes) / taken.ravel()[pixels]
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-4)
    assert ratio.mean() > 0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_batch_is_each_sample_by_itself(
    norm: str, objective: str, few: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"target": 3, "norm": norm, "objective": objective, "max_steps": 40}
    together = audit.ascend(few, index=range(9), model="mnist", out=tmp_path / "a.h5", **options)
    assert len(set(together.steps.tolist())) > 3  # they leave the batch at different steps
    for row in range(9):
        alone = audit.ascend(few, index=row, model="mnist", out=tmp_path / "one.h5", **options)
        for name in ("index", "label", "start_class", "target", "outcome", "steps", "final_class"):
            assert getattr(alone, name)[0] == getattr(together, name)[row], name
        np.testing.assert_allclose(alone.final[0], together.final[row], rtol=0, atol=1e-8)
        np.testing.assert_allclose(alone.step_size[0], together.step_size[row], rtol=1e-9)
        np.testing.assert_array_equal(
            alone.path_of(0).probability.shape, together.path_of(row).probability.shape
        )


def test_threads_change_nothing(findings_h5: Path, tmp_path: Path) -> None:
    one, three = (
        audit.ascend(findings_h5, minimal=True, threads=n, out=tmp_path / f"{n}.h5") for n in (1, 3)
    )
    assert one.count > 2
    expected, got = arrays(one.path), arrays(three.path)
    assert expected.keys() == got.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)


def test_groups_change_nothing_but_rounding(
    few: Path, everything: Ascents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups that split the samples, and one sample's targets."""
    monkeypatch.setattr("audit.ascending.GROUP_ROWS", 5)
    found = audit.ascend(few, index=range(6), target="all", model="mnist", out=tmp_path / "a.h5")
    for name in ("index", "target", "steps", "outcome", "path_offset", "frame_offset", "input"):
        np.testing.assert_array_equal(getattr(found, name), getattr(everything, name))
    np.testing.assert_allclose(found.final, everything.final, rtol=0, atol=1e-8)


def test_all_targets(everything: Ascents) -> None:
    assert everything.count == 6 * 9
    np.testing.assert_array_equal(everything.index, np.repeat(np.arange(6), 9))
    for sample in range(6):
        rows = everything.index == sample
        (start,) = set(everything.start_class[rows].tolist())
        assert everything.target[rows].tolist() == [c for c in range(10) if c != start]


def test_second_is_the_runner_up(shipped: nn.Module, findings_h5: Path, tmp_path: Path) -> None:
    findings = audit.load_findings(findings_h5)
    found = audit.ascend(findings_h5, out=tmp_path / "a.h5")
    np.testing.assert_array_equal(found.index, findings.index)
    np.testing.assert_array_equal(found.label, findings.label)
    np.testing.assert_array_equal(found.input, findings.input)
    np.testing.assert_array_equal(np.stack([found.start_class, found.target], 1), findings.classes)
    np.testing.assert_allclose(found.first_order_l2, findings.distance_l2, rtol=1e-9)
    np.testing.assert_allclose(found.first_order_linf, findings.distance_linf, rtol=1e-9)
    np.testing.assert_allclose(found.step_size, findings.distance_l2 / 10, rtol=1e-9)
    np.testing.assert_array_equal(all_logits(shipped, found.final).argmax(axis=1), found.target)
    assert found.succeeded == found.count == len(findings.index)


def test_dataset_and_findings_give_the_same(few: Path, findings_h5: Path, tmp_path: Path) -> None:
    some = audit.load_findings(findings_h5).index[[0, 2]].tolist()
    one = audit.ascend(findings_h5, index=some[::-1], out=tmp_path / "a.h5")
    other = audit.ascend(few, index=some, model="mnist", out=tmp_path / "b.h5")
    for name, values in arrays(one.path).items():
        np.testing.assert_array_equal(arrays(other.path)[name], values, err_msg=name)
    assert (one.source["kind"], other.source["kind"]) == ("findings", "dataset")
    assert one.dataset["fingerprint"] == other.dataset["fingerprint"]


def test_distances_are_those_of_the_stored_inputs(everything: Ascents) -> None:
    x = in_input_space(everything.input)
    for prefix, final in (("", everything.final), ("minimal_", everything.minimal_input)):
        flat = (final - x).reshape(len(x), -1)
        l2, linf = np.linalg.norm(flat, axis=1), np.abs(flat).max(axis=1)
        np.testing.assert_allclose(getattr(everything, f"{prefix}distance_l2"), l2, rtol=1e-12)
        np.testing.assert_allclose(getattr(everything, f"{prefix}distance_linf"), linf, rtol=1e-12)
    assert np.all(everything.minimal_distance_l2 <= everything.distance_l2)
    assert np.median(everything.minimal_distance_l2 / everything.distance_l2) < 0.95


def test_rounding_against_an_eager_evaluation(everything: Ascents, shipped: nn.Module) -> None:
    for prefix, final in (("", everything.final), ("minimal_", everything.minimal_input)):
        rounded = getattr(everything, f"{prefix}rounded")
        assert rounded.dtype == np.uint8
        np.testing.assert_array_equal(rounded, np.rint(final[:, 0] * 255))
        classes = all_logits(shipped, in_input_space(rounded)).argmax(axis=1)
        survives = getattr(everything, f"{prefix}survives_rounding")
        np.testing.assert_array_equal(survives, classes == everything.target)
        assert survives.any()
    assert not everything.minimal_survives_rounding.all()


def test_minimal_inputs_are_of_the_target(everything: Ascents, shipped: nn.Module) -> None:
    classes = all_logits(shipped, everything.minimal_input).argmax(axis=1)
    np.testing.assert_array_equal(classes, everything.target)


def test_uint8_stays_in_its_range_and_floats_are_free(
    everything: Ascents, network_bundle: Callable[[str], Bundle], tmp_path: Path
) -> None:
    for final in (everything.final, everything.minimal_input):
        assert final.min() == 0.0
        assert final.max() <= 1.0
    x = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    data = write_dataset(tmp_path / "data.h5", x)
    model = network_bundle("tabular").path
    free = audit.ascend(data, index=range(5), model=model, out=tmp_path / "a.h5")
    assert free.options["clip"] is None
    assert free.succeeded == 5
    limit = float(np.abs(x).max())
    inside = audit.ascend(
        data, index=range(5), model=model, clip=(-limit, limit), minimal=True, step=0.5,
        out=tmp_path / "b.h5",
    )  # fmt: skip
    assert np.abs(inside.final).max() <= limit
    assert np.nanmax(np.abs(inside.minimal_input)) <= limit


@pytest.mark.parametrize("raw_dtype", ["float16", "float32", "float64"])
def test_rounding_to_floats(raw_dtype: str, tmp_path: Path) -> None:
    model = seeded("tabular")
    bundle = audit.export(
        model, tmp_path / "b", input_shape=(12,), raw_dtype=raw_dtype, scale=0.5, offset=0.25
    )
    x = np.random.default_rng(1).standard_normal((4, 12)).astype(raw_dtype)
    data = write_dataset(tmp_path / "data.h5", x)
    found = audit.ascend(data, index=range(4), model=bundle.path, minimal=True, out=tmp_path / "a")
    for final, rounded, survives in (
        (found.final, found.rounded, found.survives_rounding),
        (found.minimal_input, found.minimal_rounded, found.minimal_survives_rounding),
    ):
        expected = (final - 0.25) / 0.5
        np.testing.assert_array_equal(rounded, expected.astype(raw_dtype))
        stored = (rounded.astype(np.float64) * 0.5 + 0.25).astype(np.float32)
        classes = all_logits(seeded("tabular").double(), stored).argmax(axis=1)
        np.testing.assert_array_equal(survives, classes == found.target)


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
def test_layouts_are_undone(layout: str, tmp_path: Path) -> None:
    bundle = audit.export(
        seeded("resnet"), tmp_path / "b", input_shape=(3, 32, 32), raw_dtype="uint8",
        raw_layout=layout,
    )  # fmt: skip
    raw = bundle.manifest.preprocess.random_raw(7, np.random.default_rng(0))
    there = bundle.manifest.preprocess.to_input_space(raw)
    np.testing.assert_array_equal(bundle.manifest.preprocess.to_raw(there), raw)
    wild = np.full((1, 3, 32, 32), [[[[-1.0]], [[0.5]], [[2.0]]]])
    saturated = bundle.manifest.preprocess.to_raw(wild)
    channels = saturated[0] if layout == "CHW" else saturated[0].transpose(2, 0, 1)
    assert [set(np.unique(each)) for each in channels] == [{0}, {128}, {255}]


def test_paths_fit_the_rows(everything: Ascents) -> None:
    assert everything.path_offset[0] == 0
    np.testing.assert_array_equal(np.diff(everything.path_offset), everything.steps + 1)
    assert len(everything.path_margin) == len(everything.path_probability)
    assert len(everything.path_margin) == everything.path_offset[-1]
    for row in range(everything.count):
        margin = everything.path_of(row).margin
        assert np.all(margin[:-1] < 0)
        assert margin[-1] > 0
        frames = everything.frames_of(row)
        assert frames.step[0] == 0
        assert frames.step[-1] == everything.steps[row]
        assert 2 <= len(frames.step) <= 8
        x = in_input_space(everything.input[[row]])[0].astype(np.float32)
        np.testing.assert_array_equal(frames.input[0], x)
        np.testing.assert_array_equal(frames.input[-1], everything.final[row].astype(np.float32))


@pytest.mark.parametrize("most", [2, 3, 8])
@pytest.mark.parametrize("steps", [0, 1, 2, 6, 7, 8, 30, 100])
def test_frames_are_thinned_evenly(most: int, steps: int) -> None:
    frames = _Frames(most)
    for step in range(steps + 1):
        frames.add(step, np.array([float(step)]))
    frames.end(steps, np.array([float(steps)]))
    assert len(frames.steps) <= most
    assert [float(x[0]) for x in frames.inputs] == frames.steps
    assert (frames.steps[0], frames.steps[-1]) == (0, steps)
    gaps = np.diff(frames.steps)
    assert len(set(gaps[:-1].tolist())) <= 1
    if steps < most:
        assert frames.steps == list(range(steps + 1))
    else:
        assert len(frames.steps) > most // 2


def test_numbers_may_be_numpys(few: Path, tmp_path: Path) -> None:
    found = audit.ascend(
        few, index=np.int64(1), target=np.int64(3), step=np.float32(0.5), max_steps=np.int32(50),  # type: ignore[arg-type]
        frames=np.int8(4), model="mnist", out=tmp_path / "a.h5",  # type: ignore[arg-type]
    )  # fmt: skip
    assert (found.index[0], found.target[0], found.step_size[0]) == (1, 3, 0.5)
    assert found.options["target"] == 3


def test_no_frames(few: Path, tmp_path: Path) -> None:
    found = audit.ascend(few, index=1, frames=0, model="mnist", out=tmp_path / "a.h5")
    assert found.frames_of(0).input.shape == (0, 1, 28, 28)


def test_a_sample_that_is_of_the_class_already(few: Path, tmp_path: Path) -> None:
    found = audit.ascend(
        few, index=[0, 1], target="7", minimal=True, model="mnist", out=tmp_path / "a.h5"
    )
    assert found.start_class.tolist() == [7, 2]
    assert found.success.tolist() == [True, True]
    assert found.steps[0] == 0 < found.steps[1]
    for name in ("distance_l2", "distance_linf", "first_order_l2", "minimal_distance_l2"):
        assert getattr(found, name)[0] == 0 < getattr(found, name)[1]
    assert found.survives_rounding[0]
    assert found.minimal_survives_rounding[0]
    np.testing.assert_array_equal(found.minimal_rounded[0], found.input[0])


class Flat(nn.Module):
    """Which class wins depends on feature 0 alone; class 2 never wins and has no gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        none = 0 * x[:, :1]
        return torch.cat([x[:, :1], -x[:, :1], none - 5, none + torch.relu(x[:, 1:2] - 9)], 1)


def test_how_an_ascent_ends(tmp_path: Path) -> None:
    bundle = audit.export(Flat().eval(), tmp_path / "flat", input_shape=(3,))
    data = write_dataset(tmp_path / "data.h5", np.array([[1, 2, 3], [0.5, 10, 0]], np.float32))

    def ended(**options: Any) -> tuple[str, int]:
        found = audit.ascend(data, model=bundle.path, out=tmp_path / "a.h5", **options)
        assert not np.isnan(found.final).any()
        assert found.succeeded == int(found.success.sum())
        return OUTCOMES[found.outcome[0]], int(found.steps[0])

    assert ended(index=0, target=1) == ("reached", 11)
    assert ended(index=0, target=1, max_steps=3) == ("max steps", 3)
    assert ended(index=0, target=3, objective="logit", step=1.0) == ("no gradient", 0)
    assert ended(index=0, target=1, clip=(0, 4), step=0.3) == ("stuck", 4)
    assert ended(index=0, target=1, step=1e308) == ("reached", 1)
    found = audit.ascend(
        data, index=0, target=1, max_steps=3, minimal=True, model=bundle.path, out=tmp_path / "a.h5"
    )
    assert np.isnan(found.minimal_input).all()
    assert np.isnan(found.minimal_distance_l2[0])
    assert not found.minimal_survives_rounding[0]
    np.testing.assert_array_equal(found.minimal_rounded, found.input)


def test_a_step_into_infinity_is_a_failure_with_the_last_finite_input(tmp_path: Path) -> None:
    class Explodes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x.exp() + 9, x * x], 1)

    bundle = audit.export(Explodes().eval(), tmp_path / "b", input_shape=(1,))
    data = write_dataset(tmp_path / "data.h5", np.ones((1, 1), np.float32))
    found = audit.ascend(
        data, index=0, objective="logit", step=1000.0, model=bundle.path, out=tmp_path / "a.h5"
    )
    assert OUTCOMES[found.outcome[0]] == "non-finite"
    assert (found.steps[0], found.final[0, 0]) == (0, 1.0)
    assert np.isfinite(found.path_margin).all()


def test_exactly_tied_samples_are_pushed_apart(tmp_path: Path) -> None:
    model = linear(4, 3).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(3, 4))  # type: ignore[index]
        model[1].bias.zero_()  # type: ignore[index]
    bundle = audit.export(model, tmp_path / "b", input_shape=(4,))
    data = write_dataset(tmp_path / "data.h5", np.array([[2, 2, 0, 0]], np.float32))
    found = audit.ascend(data, index=0, minimal=True, model=bundle.path, out=tmp_path / "a.h5")
    assert (found.start_class[0], found.target[0], found.first_order_l2[0]) == (0, 1, 0.0)
    assert found.success[0]
    assert 0 < found.minimal_distance_l2[0] <= found.distance_l2[0] < 1e-5


def test_round_trip(everything: Ascents, few: Path) -> None:
    again = load_ascents(everything.path)
    for field in fields(Ascents):
        assert getattr(again, field.name) == getattr(everything, field.name)
    assert again.class_names == tuple("0123456789")
    assert again.preprocess == load_bundle("mnist").manifest.preprocess
    assert again.source == {"kind": "dataset", "path": str(few)}
    assert again.options == {
        "target": "all", "norm": "l2", "objective": "prob", "step": None, "max_steps": 1000,
        "clip": [0.0, 1.0], "minimal": True, "frames": 8,
    }  # fmt: skip
    np.testing.assert_array_equal(again.rows("final", 2, 5), again.final[2:5])
    written = {field.name for field in (*fields(AscentRows), *fields(Minimal))}
    with h5py.File(everything.path) as file:
        assert written >= set(file["minimal"])
        assert h5py.check_enum_dtype(file["ascent/outcome"].dtype) == {
            name: number for number, name in enumerate(OUTCOMES)
        }
        assert all(node.chunks for group in file.values() for node in group.values())


def test_no_near_tie_no_ascent(few: Path, tmp_path: Path) -> None:
    audit.scan(few, eps=1e-9, model="mnist", out=tmp_path / "none.findings.h5")
    found = audit.ascend(tmp_path / "none.findings.h5", minimal=True, out=tmp_path / "a.h5")
    assert (found.count, found.succeeded) == (0, 0)
    assert found.final.shape == found.minimal_input.shape == (0, 1, 28, 28)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("earlier", [False, True])
def test_error_within_leaves_no_file(
    earlier: bool, error: type[BaseException], few: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.h5"
    if earlier:
        audit.ascend(few, index=0, model="mnist", out=out)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupt(done: int, total: int) -> None:
        raise error

    with pytest.raises(error):
        audit.ascend(few, index=0, model="mnist", out=out, progress=interrupt)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_killed_writer_leaves_nothing_under_the_name(few: Path, tmp_path: Path) -> None:
    program = f"""
import os, signal, audit.ascent_writer as writer, audit
def kill(self, **_):
    print("killed", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
writer.AscentWriter.finish = kill
audit.ascend({str(few)!r}, index=0, model="mnist", out="a.h5")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "killed\n")
    assert not (tmp_path / "a.h5").exists()


def test_progress_counts_ascents(few: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    audit.ascend(
        few, index=[1, 2], target="all", model="mnist", out=tmp_path / "a.h5",
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1] == (18, 18)
    assert {total for _, total in seen} == {18}


# What a stranger may have done to an ascent file.
def attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if value is None:
            del file.attrs[name]
        else:
            file.attrs[name] = value

    return change


def replaced(name: str, **options: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **options)

    return change


HOSTILE = {
    "schema of the future": attribute("schema", "audit-ascent/2"),
    "findings": attribute("schema", "audit-findings/1"),
    **{
        f"no {name}": attribute(name, None)
        for name in ("created", "ascents", "succeeded", "options", "bundle", "minimised")
    },
    "more than there are": attribute("ascents", 99),
    "negative": attribute("ascents", -1),
    "more succeeded": attribute("succeeded", 99),
    "options no object": attribute("options", "[]"),
    "engine NaN": attribute("engine", '{"a": NaN}'),
    "no class names": attribute("bundle", "{}"),
    "class names of numbers": attribute("bundle", '{"classes": [1, 2]}'),
    "no rows": lambda file: file.__delitem__("ascent"),
    "no path": lambda file: file.__delitem__("path/offset"),
    "offsets of text": replaced("frame/offset", data=["a"] * 3),
    "never written": replaced("ascent/index", shape=(2,), dtype=np.int64, chunks=(1,)),
}


@pytest.fixture
def ascent_h5(few: Path, tmp_path: Path) -> Path:
    return audit.ascend(few, index=[1, 2], model="mnist", out=tmp_path / "a.ascent.h5").path


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_ascent_file(name: str, ascent_h5: Path) -> None:
    with h5py.File(ascent_h5, "a") as file:
        HOSTILE[name](file)
    with pytest.raises(AscentError, match="expected an ascent file") as caught:
        load_ascents(ascent_h5)
    assert str(ascent_h5) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "read"),
    [
        (replaced("ascent/final", shape=(10**12, 1), dtype="f8"), lambda a: a.final),
        (replaced("ascent/steps", data=np.zeros(3, int)), lambda a: a.steps),
        (replaced("ascent/label", data=np.zeros(2)), lambda a: a.label),
        (replaced("ascent/success", data=np.ones(2, int)), lambda a: a.success),
        (replaced("path/offset", data=np.array([0, 2, 10**9])), lambda a: a.path_of(1)),
        (replaced("path/offset", data=np.array([0, -5, 2])), lambda a: a.path_of(0)),
        (replaced("path/margin", data=np.zeros((3, 3))), lambda a: a.path_of(0)),
        (replaced("frame/input", data=np.zeros(3, "f4")), lambda a: a.frames_of(1)),
        (attribute("created", "now"), lambda a: a.final),
        (attribute("x", 1), lambda a: a.minimal_input),
    ],
    ids=[
        "gigantic", "rows", "dtype", "not bool", "offset beyond", "offset back", "rank", "fewer",
        "replaced", "not minimised",
    ],
)  # fmt: skip
def test_arrays_that_are_not_what_they_should_be(
    change: Callable[[h5py.File], None], read: Callable[[Ascents], Any], ascent_h5: Path
) -> None:
    ascents = load_ascents(ascent_h5)
    with h5py.File(ascent_h5, "a") as file:
        change(file)
    with pytest.raises(AscentError, match=str(ascent_h5)):
        read(ascents)


def test_every_truncation_is_refused(ascent_h5: Path) -> None:
    whole = ascent_h5.read_bytes()
    for size in range(0, len(whole), 4999):
        ascent_h5.write_bytes(whole[:size])
        with pytest.raises(AscentError):
            load_ascents(ascent_h5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"index": []}, "--index"),
        ({"index": -1}, "--index -1"),
        ({"index": 40}, r"--index 40: .* 40 samples; expected 0 to 39"),
        ({"index": 0, "norm": "l1"}, "--norm l1"),
        ({"index": 0, "objective": "loss"}, "--objective loss"),
        ({"index": 0, "step": 0}, "--step 0"),
        ({"index": 0, "step": float("nan")}, "--step nan"),
        ({"index": 0, "max_steps": 0}, "--max-steps 0"),
        ({"index": 0, "frames": 1}, "--frames 1"),
        ({"index": 0, "threads": 0}, "--threads 0"),
        ({"index": 0, "clip": (1, 0)}, "--clip 1,0"),
        ({"index": 0, "clip": (0, 0.5)}, "sample 0 has values from 0 to 1"),
        ({"index": 0, "target": 10}, "--target 10: no such class"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], words: str, few: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=words):
        audit.ascend(few, model="mnist", out=tmp_path / "a.h5", **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": 1.5}, "--target 1.5: expected second, all"),
        ({"target": True}, "--target True"),
        ({"target": None}, "--target None"),
        ({"clip": (0,)}, r"--clip \(0,\): expected the least"),
        ({"clip": (0, 1, 2)}, "--clip"),
        ({"clip": "0,1"}, "--clip '0,1'"),
        ({"clip": (0, "1")}, "--clip"),
        ({"index": [2**63]}, "--index 9223372036854775808: expected a position"),
    ],
)
def test_wrong_types(options: dict[str, Any], words: str, few: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=words):
        audit.ascend(few, model="mnist", out=tmp_path / "a.h5", **({"index": [0]} | options))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_tie_on_the_boundary_is_not_enough(norm: str, tmp_path: Path) -> None:
    """Ten default steps lead a linear network just to the boundary, and rounding names a class."""
    torch.manual_seed(0)
    model = nn.Linear(6, 3).eval()
    bundle = audit.export(model, tmp_path / "bundle", input_shape=(6,))
    samples = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    data = write_dataset(tmp_path / "d.h5", samples)
    found = audit.ascend(
        data,
        model=bundle,
        index=range(40),
        target="all",
        norm=norm,
        minimal=True,
        out=tmp_path / "a.h5",
    )
    assert found.success.all()
    exact = model.double()
    for inputs in (found.final, found.minimal_input):
        classes = exact(torch.from_numpy(inputs)).argmax(1).numpy()
        np.testing.assert_array_equal(classes, found.target)
    last = found.path_margin[found.path_offset[1:] - 1]
    assert (last > 0).all()
    assert (found.first_order_l2 >= 0).all()


def test_names_come_before_numbers(tmp_path: Path) -> None:
    bundle = audit.export(
        linear(4, 3).eval(), tmp_path / "b", input_shape=(4,), classes=("1", "2", "three")
    )
    data = write_dataset(tmp_path / "data.h5", np.ones((1, 4), np.float32))

    def target(asked: int | str) -> int:
        found = audit.ascend(data, index=0, target=asked, model=bundle, out=tmp_path / "a.h5")
        return int(found.target[0])

    assert [target(each) for each in ("1", "2", "three", 1, "0")] == [0, 1, 2, 1, 0]
    with pytest.raises(OptionError, match="did you mean three"):
        target("tree")


def test_samples_with_non_finite_logits_are_refused(
    network_bundle: Callable[[str], Bundle], tmp_path: Path
) -> None:
    x = np.zeros((3, 12), np.float32)
    x[1] = np.nan
    data = write_dataset(tmp_path / "data.h5", x)
    with pytest.raises(DatasetError, match="sample 1 has NaN or infinite logits"):
        audit.ascend(
            data, index=range(3), model=network_bundle("tabular").path, out=tmp_path / "a.h5"
        )


def test_only_an_ascent_file_is_overwritten(few: Path, findings_h5: Path) -> None:
    for out in (few, findings_h5):
        with pytest.raises(OutputError, match="is not an ascent file"):
            audit.ascend(few, index=0, model="mnist", out=out)
