"""What changed between two scans: real models, and every case by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import audit
from audit import prediction_flips, tie_changes
from audit.diff import Diff
from audit.diff_file import load_diff_record
from audit.diff_summary import summary_from_diff
from audit.errors import FindingsError, OutputError
from audit.info import info
from audit.prediction_flips import flip_blocks
from made_findings import Tie, every_margin, write_findings
from nights import EveryMargin


def linear_bundle(mnist_h5: Path, out: Path) -> Path:
    """A linear classifier of MNIST by least squares, another model than the shipped CNN."""
    import torch
    from torch import nn

    with h5py.File(mnist_h5) as file:
        x = torch.from_numpy(file["images"][:]).double().flatten(1) / 255
        target = nn.functional.one_hot(torch.from_numpy(file["labels"][:]).long(), 10).double()
    inverse = torch.linalg.inv(x.T @ x + 10 * torch.eye(784, dtype=torch.float64))
    linear = nn.Linear(784, 10, bias=False)
    with torch.no_grad():
        linear.weight.copy_((10 * inverse @ x.T @ target).T)
    model = nn.Sequential(nn.Flatten(), linear)
    audit.export(model.eval(), out, input_shape=(1, 28, 28), raw_dtype="uint8", scale=1 / 255)
    return out


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory, mnist_h5: Path) -> dict[str, Path]:
    """Real scans of the 10,000 test images. Read only."""
    folder = tmp_path_factory.mktemp("diff")
    linear = linear_bundle(mnist_h5, folder / "linear")
    wanted: dict[str, dict[str, Any]] = {
        "cnn": {"model": "mnist", "eps": 0.1, "keep_all": True},
        "again": {"model": "mnist", "eps": 0.1, "keep_all": True, "batch_size": 33, "threads": 1},
        "linear": {"model": linear, "eps": 0.1, "keep_all": True},
        "wider": {"model": linear, "eps": 0.3, "no_gradients": True},
        "first": {"model": linear, "eps": 0.1, "limit": 4000, "keep_all": True},
    }
    return {
        name: audit.scan(mnist_h5, out=folder / f"{name}.h5", **options).path
        for name, options in wanted.items()
    }


def arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Everything in a file, by plain h5py."""
    found: dict[str, NDArray[Any]] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, node: found.update({name: node[()]} if hasattr(node, "dtype") else {})
        )
    return found


def test_two_models_by_an_oracle(scans: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "diff.h5"
    diff = audit.diff(scans["cnn"], scans["linear"], out=out)
    old, new, found = arrays(scans["cnn"]), arrays(scans["linear"]), arrays(out)
    rows = [{int(i): r for r, i in enumerate(each["flagged/index"])} for each in (old, new)]
    newly = sorted(rows[1].keys() - rows[0].keys())
    left = sorted(rows[0].keys() - rows[1].keys())
    assert len(newly) > 50
    assert len(left) > 5

    for group, index, own, row_of, side, other in (
        ("newly", newly, new, rows[1], "old", old),
        ("left", left, old, rows[0], "new", new),
    ):
        assert found[f"{group}/index"].tolist() == index
        at = [row_of[i] for i in index]
        for name in ("classes", "margin", "label", "distance_l2", "distance_linf"):
            np.testing.assert_array_equal(found[f"{group}/{name}"], own[f"flagged/{name}"][at])
        np.testing.assert_array_equal(found[f"{group}/{side}_margin"], other["scan/margin"][index])
        np.testing.assert_array_equal(
            found[f"{group}/{side}_classes"], other["scan/classes"][index]
        )
        assert (found[f"{group}/cause"] == tie_changes.MODEL).all()

    tops, tied = [], set(rows[0]) | set(rows[1])
    for each, row_of_each in zip((old, new), rows, strict=True):
        top = each["scan/classes"][:, 0].tolist()
        for i, row in row_of_each.items():
            top[i] = int(each["flagged/classes"][row, 0])
        tops.append(top)
    flipped = [i for i in range(10_000) if tops[0][i] != tops[1][i]]
    assert found["flips/index"].tolist() == flipped
    assert found["flips/classes"].tolist() == [[tops[0][i], tops[1][i]] for i in flipped]
    kinds = [prediction_flips.KINDS[kind] for kind in found["flips/kind"]]
    assert kinds == ["tied" if i in tied else "confident" for i in flipped]
    assert {"tied", "confident"} == set(kinds)
    assert diff.flips is not None
    assert (diff.flips.flips, diff.flips.compared) == (len(flipped), 10_000)
    assert diff.flips.kinds == {
        "tied": kinds.count("tied"),
        "confident": kinds.count("confident"),
        "unsettled": 0,
    }
    ways = [(tops[0][i], tops[1][i]) for i in flipped]
    assert diff.flips.ways == {way: ways.count(way) for way in set(ways)}
    # The flips explain the accuracies, to the sample.
    label = np.array(h5py.File(audit.load_findings(scans["cnn"]).dataset["path"])["labels"])
    right = [(np.array(top) == label) for top in tops]
    for findings, each in zip((diff.comparison.old, diff.comparison.new), right, strict=True):
        assert findings.correct == each.sum()


def test_another_batch_size_changes_nothing(scans: dict[str, Path]) -> None:
    diff = audit.diff(scans["cnn"], scans["again"])
    assert diff.comparison.same_bundle
    assert diff.unchanged
    assert len(diff.comparison.still_new) == 12
    assert abs(diff.margin_change).max() < 1e-12
    assert diff.flips is not None
    assert (diff.flips.flips, diff.flips.compared) == (0, 10_000)


def test_the_same_file_twice_changes_nothing(scans: dict[str, Path]) -> None:
    diff = audit.diff(scans["linear"], scans["linear"])
    assert diff.unchanged
    assert len(diff.comparison.still_new) == diff.comparison.new.flagged > 0


def test_only_what_both_scanned_is_compared(scans: dict[str, Path], tmp_path: Path) -> None:
    for old, new in (("cnn", "first"), ("first", "cnn")):
        out = tmp_path / "diff.h5"
        part = audit.diff(scans[old], scans[new], out=out)
        assert part.comparison.common == 4000
        assert part.flips is not None
        assert part.flips.compared == 4000
        for name in ("newly", "left", "still", "flips"):
            assert (arrays(out)[f"{name}/index"] < 4000).all()
    whole, part_arrays = tmp_path / "whole.h5", arrays(tmp_path / "diff.h5")
    audit.diff(scans["linear"], scans["cnn"], out=whole)
    whole_flips = arrays(whole)["flips/index"]
    assert part_arrays["flips/index"].tolist() == whole_flips[whole_flips < 4000].tolist()


def test_a_wider_eps_of_the_same_model_is_the_only_cause(scans: dict[str, Path]) -> None:
    diff = audit.diff(scans["linear"], scans["wider"])
    assert len(diff.newly.cause) > 50
    assert (diff.newly.cause == tie_changes.THRESHOLD).all()
    assert not len(diff.comparison.left)
    assert diff.flips is None
    # Now the other way: what a narrower ε loses, it loses by being narrower.
    back = audit.diff(scans["wider"], scans["linear"])
    assert (back.left.cause == tie_changes.THRESHOLD).all()
    np.testing.assert_array_equal(
        back.comparison.old.index[back.comparison.left],
        diff.comparison.new.index[diff.comparison.newly],
    )


def test_the_cause_by_an_oracle_of_two_models(scans: dict[str, Path]) -> None:
    diff = audit.diff(scans["cnn"], scans["wider"])
    old, new = arrays(scans["cnn"]), arrays(scans["wider"])
    newly = [i for i in new["flagged/index"] if i not in old["flagged/index"]]
    tied_before = old["scan/margin"][newly] < 0.3
    assert tied_before.any()
    assert (diff.newly.cause == np.where(tied_before, 1, 0)).all()
    left = [r for r, i in enumerate(old["flagged/index"]) if i not in new["flagged/index"]]
    assert (diff.left.cause == tie_changes.MODEL).all()
    assert len(left) == len(diff.left.cause)


OTHER_MODEL: dict[str, Any] = {"manifest_sha256": "cd" * 32}


def diff_of(tmp_path: Path, old: dict[str, Any], new: dict[str, Any]) -> Diff:
    return audit.diff(
        write_findings(tmp_path / "old.h5", **old), write_findings(tmp_path / "new.h5", **new)
    )


@pytest.mark.parametrize(
    ("old", "new", "margin", "cause"),
    [
        # ε grew: what the old margin was decides, where it was recorded.
        ({"eps": 0.1}, {"eps": 0.2}, 0.15, "threshold"),
        ({"eps": 0.1}, {"eps": 0.2}, 0.25, "model"),
        ({"eps": 0.1}, {"eps": 0.2}, None, "unknown"),
        ({"eps": 0.1}, {"eps": 0.2}, np.nan, "unknown"),
        # Within the guard (0.001) of ε, the fast pass doesn't decide.
        ({"eps": 0.1}, {"eps": 0.2}, 0.1995, "unknown"),
        ({"eps": 0.1}, {"eps": 0.2}, 0.2005, "unknown"),
        # ε didn't grow: not flagged before means not tied before.
        ({"eps": 0.2}, {"eps": 0.1}, None, "model"),
        ({"eps": 0.1}, {"eps": 0.1}, None, "model"),
        # The least logit: it isn't recorded, so that a margin alone decides one way only.
        ({"min_logit": 3.0}, {}, 0.05, "threshold"),
        ({"min_logit": 3.0}, {}, 0.3, "model"),
        ({"min_logit": 3.0}, {"min_logit": 1.0}, 0.05, "unknown"),
        ({"min_logit": 1.0}, {"min_logit": 1.5}, None, "model"),
        ({}, {"min_logit": 1.5}, None, "model"),
        # The same bundle has the same margins.
        ({"eps": 0.1}, {"eps": 0.2, **{"manifest_sha256": "ab" * 32}}, None, "threshold"),
        # Before, its logits weren't finite: no threshold would have flagged it.
        ({"eps": 0.1, "nonfinite": [7]}, {"eps": 0.2}, None, "model"),
    ],
)
def test_cause_of_a_new_tie(
    old: dict[str, Any], new: dict[str, Any], margin: float | None, cause: str, tmp_path: Path
) -> None:
    if margin is not None:
        every = every_margin(100)
        every.margin[7] = margin
        old = {**old, "every": every}
    diff = diff_of(tmp_path, old, {**OTHER_MODEL, "ties": [Tie(7)], **new})
    assert [tie_changes.CAUSES[each] for each in diff.newly.cause] == [cause]
    np.testing.assert_array_equal(
        diff.newly.margin, [np.float32(np.nan if margin is None else margin)]
    )
    assert diff.newly.classes.tolist() == [[-1, -1] if margin is None else [0, 1]]


@pytest.mark.parametrize(
    ("new", "cause"),
    [
        ({"eps": 0.1}, "model"),
        ({"eps": 0.05}, "threshold"),  # margin < ε, strictly
        ({"eps": 0.0501}, "model"),
        ({"min_logit": 2.0}, "threshold"),  # largest logit > the least, strictly
        ({"min_logit": 1.9}, "model"),
    ],
)
def test_cause_of_a_tie_that_left(new: dict[str, Any], cause: str, tmp_path: Path) -> None:
    diff = diff_of(tmp_path, {"ties": [Tie(7, margin=0.05, largest=2.0)]}, {**OTHER_MODEL, **new})
    assert [tie_changes.CAUSES[each] for each in diff.left.cause] == [cause]


def test_a_guard_that_is_none_is_named(tmp_path: Path) -> None:
    every = every_margin(100)
    for guard in ({"guard": ...}, {"guard": "1"}, {"guard": float("inf")}, {"guard": -1}):
        with pytest.raises(FindingsError, match=r"no guard|not a number"):
            diff_of(tmp_path, {"every": every, "engine": guard}, {"every": every})


def flipping() -> tuple[dict[str, Any], dict[str, Any]]:
    """Old and new scans with a flip of every kind; the classes of both files differ throughout."""
    sides = []
    for other in (0, 2):
        every = every_margin(100)
        every.classes[:10] = (other, 1)
        sides.append(every)
    before, now = sides
    # 0, 1: flagged in one; the fast pass's class is not the canonical one.
    ties = [Tie(0, (0, 1)), Tie(8, (3, 2))]
    before.classes[0] = before.classes[8] = (1, 0)
    new_ties = [Tie(1, (2, 1)), Tie(8, (3, 2))]  # 8: flagged in both, no flip
    now.classes[8] = (2, 3)
    before.margin[2] = 0.02  # below ε and not flagged: the least logit kept it out
    now.margin[3] = 0.0005
    now.classes[4], now.margin[4] = -1, np.nan  # the fast pass overflowed
    # 5: not finite in the old scan, canonically
    now.classes[6] = (0, 1)
    return (
        {"ties": ties, "every": before, "nonfinite": [5]},
        {"ties": new_ties, "every": now, "nonfinite": [4], "eps": 0.0002, **OTHER_MODEL},
    )


@pytest.mark.parametrize("block", [1, 3, 7, 2**20])
def test_every_kind_of_flip(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_flips, "BLOCK", block)
    diff = diff_of(tmp_path, *flipping())
    assert diff.flips is not None
    blocks = [each.flips for each in flip_blocks(diff.comparison)]
    assert len(blocks) == -(-100 // block)
    index = np.concatenate([each.index for each in blocks]).tolist()
    kind = np.concatenate([each.kind for each in blocks])
    assert {i: prediction_flips.KINDS[k] for i, k in zip(index, kind, strict=True)} == {
        0: "tied",
        1: "tied",
        2: "unsettled",
        3: "unsettled",
        7: "confident",
        9: "confident",
    }
    classes = dict(
        zip(index, np.concatenate([each.classes for each in blocks]).tolist(), strict=True)
    )
    assert classes[0] == [0, 2]
    assert diff.flips.compared == 98
    assert diff.flips.kinds == {"tied": 2, "confident": 2, "unsettled": 2}
    assert diff.flips.examples is not None
    assert diff.flips.examples.index.tolist() == [7, 9]
    assert diff.newly_nonfinite.tolist() == [4]
    assert diff.left_nonfinite.tolist() == [5]


@pytest.mark.parametrize("block", [1, 4, 2**20])
def test_most_confident_flips_are_the_largest(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_flips, "BLOCK", block)
    rng = np.random.default_rng(0)
    sides = [EveryMargin(rng.random(100, np.float32) + 1, every_margin(100).classes)]
    sides += [EveryMargin(rng.random(100, np.float32) + 1, every_margin(100, 5, (2, 3)).classes)]
    diff = diff_of(tmp_path, {"every": sides[0]}, {"every": sides[1], **OTHER_MODEL})
    least = np.minimum(sides[0].margin, sides[1].margin)
    assert diff.flips is not None
    assert diff.flips.examples is not None
    assert diff.flips.examples.index.tolist() == np.argsort(-least, kind="stable")[:5].tolist()


@pytest.mark.parametrize("block", [1, 10, 2**20])
def test_recorded_margins_are_read_in_blocks(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tie_changes, "BLOCK", block)
    every = EveryMargin(np.arange(100, dtype=np.float32), every_margin(100).classes)
    every.classes[:, 0] = np.arange(100) % 4
    index = [0, 1, 9, 10, 11, 50, 99]
    diff = diff_of(tmp_path, {"every": every}, {"ties": [Tie(i) for i in index], **OTHER_MODEL})
    assert diff.newly.margin.tolist() == index
    assert diff.newly.classes[:, 0].tolist() == [i % 4 for i in index]


def test_changes_of_the_still_tied(tmp_path: Path) -> None:
    old = [Tie(1, (0, 1), 0.05), Tie(2, (0, 1), 0.05), Tie(3, (0, 1), 0.05), Tie(4, (0, 1), 0.05)]
    new = [
        Tie(1, (0, 1), 0.05 + 1e-12),
        Tie(2, (1, 0), 0.02),
        Tie(3, (0, 2), 0.09, distance=np.nan),
        Tie(4, (0, 1), 0.05),
    ]
    diff = diff_of(tmp_path, {"ties": old}, {"ties": new, **OTHER_MODEL})
    assert diff.moved.tolist() == [False, True, True, False]
    still = summary_from_diff(diff)["still"]
    assert (still["count"], still["moved"]) == (4, 2)
    assert (still["class_flips"], still["pair_changes"]) == (1, 1)
    assert [change["index"] for change in still["largest"]] == [3, 2]
    assert still["largest"][0]["new"]["distance_l2"] is None  # NaN isn't JSON
    assert still["largest"][0]["old"]["distance_l2"] == 0.5
    assert still["largest"][1]["class_flip"]
    assert not diff.unchanged


@pytest.mark.parametrize(
    "change",
    [
        {"ties": [Tie(7)]},
        {"nonfinite": [3]},
        {"every": every_margin(100, 5, (1, 0))},
    ],
    ids=["newly tied", "newly not finite", "flips"],
)
def test_any_change_is_one(change: dict[str, Any], tmp_path: Path) -> None:
    same = {"every": every_margin(100)}
    assert diff_of(tmp_path, same, same).unchanged
    assert not diff_of(tmp_path, same, {**same, **change}).unchanged
    assert not diff_of(tmp_path, {**same, **change}, same).unchanged


def test_diff_file_is_whole_or_not_there(tmp_path: Path) -> None:
    old, new = flipping()
    paths = [write_findings(tmp_path / f"{i}.h5", **each) for i, each in enumerate((old, new))]
    out = tmp_path / "diff.h5"
    audit.diff(*paths, out=out)
    record = load_diff_record(out)
    assert (record.common, record.newly, record.left, record.still) == (100, 1, 1, 1)
    assert (record.flips, record.compared) == (6, 98)
    assert record.new["eps"] == 0.0002
    assert info(out)["kind"] == "diff"
    assert info(out)["dataset"]["path"] == "/data/pets.h5"
    audit.diff(*paths, out=out)  # a diff may be replaced; findings may not
    before = paths[0].read_bytes()
    with pytest.raises(OutputError, match="exists and is not a diff file"):
        audit.diff(*paths, out=paths[0])
    assert paths[0].read_bytes() == before
    with h5py.File(paths[1], "r+") as file:  # damage that is met when the flips are counted
        del file["scan/classes"]
    with pytest.raises(FindingsError, match="no /scan/classes"):
        audit.diff(*paths, out=tmp_path / "never.h5")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["0.h5", "1.h5", "diff.h5"]


def test_still_tied_rows_of_the_file(tmp_path: Path) -> None:
    old = [Tie(1), Tie(2, (0, 1), 0.05, distance=0.5), Tie(6, (2, 3), 0.01, label=3)]
    new = [Tie(2, (1, 2), 0.02, distance=0.25), Tie(4), Tie(6, (2, 3), 0.03, label=3)]
    out = tmp_path / "diff.h5"
    audit.diff(
        write_findings(tmp_path / "old.h5", old), write_findings(tmp_path / "new.h5", new), out=out
    )
    still = {
        name.removeprefix("still/"): values.tolist()
        for name, values in arrays(out).items()
        if name.startswith("still/")
    }
    assert still == {
        "index": [2, 6],
        "label": [0, 3],
        "old_classes": [[0, 1], [2, 3]],
        "new_classes": [[1, 2], [2, 3]],
        "old_margin": [0.05, 0.01],
        "new_margin": [0.02, 0.03],
        "old_distance_l2": [0.5, 0.5],
        "new_distance_l2": [0.25, 0.5],
        "old_distance_linf": [0.125, 0.125],
        "new_distance_linf": [0.0625, 0.125],
    }


def test_diff_file_of_less(tmp_path: Path) -> None:
    """Without gradients no distances, without --keep-all no flips, without ties no rows."""
    out = tmp_path / "diff.h5"
    paths = [
        write_findings(tmp_path / "old.h5", [Tie(3), Tie(4)], gradients=False),
        write_findings(tmp_path / "new.h5", [Tie(4)], **OTHER_MODEL),
    ]
    audit.diff(*paths, out=out)
    names = arrays(out).keys()
    assert "flips/index" not in names
    assert "left/distance_l2" not in names
    assert "still/old_distance_l2" not in names
    assert {"still/new_distance_l2", "newly/distance_l2"} <= names
    record = load_diff_record(out)
    assert (record.flips, record.compared) == (None, None)
    assert (record.newly, record.left, record.still) == (0, 1, 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.attrs.pop("common"),
        lambda file: file.attrs.update(old="no JSON"),
        lambda file: file.attrs.update(newly=7),
        lambda file: file.pop("still"),
    ],
    ids=["no attribute", "no JSON", "another number of rows", "no group"],
)
def test_a_damaged_diff_file_is_named(damage: Any, tmp_path: Path) -> None:
    paths = [write_findings(tmp_path / f"{i}.h5") for i in range(2)]
    out = tmp_path / "diff.h5"
    audit.diff(*paths, out=out)
    with h5py.File(out, "r+") as file:
        damage(file)
    with pytest.raises(FindingsError, match=r"expected a diff file made by 'audit diff'") as caught:
        info(out)
    assert "\n" not in str(caught.value)


def test_class_names_may_be_missing(tmp_path: Path) -> None:
    old = write_findings(tmp_path / "old.h5", classes=None)
    new = write_findings(tmp_path / "new.h5", [Tie(7, (3, 1))], classes=None)
    (tie,) = summary_from_diff(audit.diff(old, new))["newly"]["closest"]
    assert tie["names"] == ["class 3", "class 1"]
