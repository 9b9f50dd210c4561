"""Two scans are matched sample by sample, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from audit.comparison import compare
from audit.errors import FindingsError
from audit.findings import load_findings
from made_findings import DATASET, Tie, every_margin, write_findings


def pair(tmp_path: Path, old: dict[str, Any], new: dict[str, Any]) -> Any:
    paths = [write_findings(tmp_path / f"{i}.h5", **each) for i, each in enumerate((old, new))]
    return compare(*map(load_findings, paths))


@pytest.mark.parametrize("seed", range(20))
def test_matches_what_sets_say(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    sides: list[dict[str, Any]] = []
    for _ in range(2):
        scanned = int(rng.integers(1, 101))
        index = np.sort(rng.choice(scanned, int(rng.integers(0, scanned + 1)), replace=False))
        ties = [
            Tie(int(i), (int(classes[0]), int(classes[1])))
            for i, classes in zip(
                index, (rng.choice(4, 2, replace=False) for _ in index), strict=True
            )
        ]
        sides.append({"ties": ties, "scanned": scanned})
    found = pair(tmp_path, *sides)

    common = min(each["scanned"] for each in sides)
    before, now = (
        {tie.index: tie.classes for tie in each["ties"] if tie.index < common} for each in sides
    )
    still = sorted(before.keys() & now.keys())
    assert found.common == common
    assert found.new.index[found.newly].tolist() == sorted(now.keys() - before.keys())
    assert found.old.index[found.left].tolist() == sorted(before.keys() - now.keys())
    assert found.old.index[found.still_old].tolist() == still
    assert found.new.index[found.still_new].tolist() == still
    assert found.class_flips.tolist() == [before[i][0] != now[i][0] for i in still]
    assert found.pair_changes.tolist() == [set(before[i]) != set(now[i]) for i in still]


def test_knows_the_same_bundle_and_thresholds(tmp_path: Path) -> None:
    assert pair(tmp_path, {}, {}).same_bundle
    assert pair(tmp_path, {}, {}).same_thresholds
    assert not pair(tmp_path, {}, {"manifest_sha256": "cd" * 32}).same_bundle
    assert not pair(tmp_path, {"manifest_sha256": None}, {"manifest_sha256": None}).same_bundle
    assert not pair(tmp_path, {}, {"eps": 0.2}).same_thresholds
    assert not pair(tmp_path, {}, {"min_logit": 1.0}).same_thresholds


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataset": {**DATASET, "fingerprint": "beef" * 16}}, "of different datasets"),
        ({"dataset": {**DATASET, "fingerprint": None}}, "made during training, of no dataset"),
        ({"classes": ["ant", "bee", "cat", "eel"]}, "the bundles' class names differ"),
    ],
)
def test_refuses_with_the_reason(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    sides: tuple[dict[str, Any], dict[str, Any]]
    for sides in (({}, changes), (changes, {})):
        with pytest.raises(FindingsError, match=reason) as caught:
            pair(tmp_path, *sides)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["flagged/index", "nonfinite/index"])
@pytest.mark.parametrize("values", [[3, 3], [7, 3], [-1, 3], [3, 100]], ids=str)
def test_refuses_positions_that_are_none(name: str, values: list[int], tmp_path: Path) -> None:
    good = load_findings(write_findings(tmp_path / "good.h5"))
    bad = write_findings(tmp_path / "bad.h5", [Tie(1), Tie(2)], nonfinite=[1, 2])
    assert compare(good, load_findings(bad)).common == 100
    with h5py.File(bad, "r+") as file:
        file[name][:] = values
    with pytest.raises(FindingsError, match=f"/{name} isn't ascending within the 100 samples"):
        compare(good, load_findings(bad))


def test_scan_rows_are_those_of_the_whole(tmp_path: Path) -> None:
    every = every_margin(100)
    every.margin[:] = np.arange(100)
    every.classes[:, 0] = np.arange(100) % 4
    findings = load_findings(write_findings(tmp_path / "f.h5", every=every))
    assert findings.kept_all
    rows = findings.scan_rows(10, 13)
    assert rows.margin.tolist() == [10, 11, 12]
    np.testing.assert_array_equal(rows.classes, findings.scan_classes[10:13])
    assert not load_findings(write_findings(tmp_path / "g.h5")).kept_all
