"""Scans over time: a row each, in order, whoever wrote the files."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import audit
from audit.errors import FindingsError, OptionError, OutputError
from audit.history import Series
from audit.history_text import COLUMNS, csv_from_history, text_from_history
from conftest import Run
from made_findings import DATASET, Tie, write_findings

NIGHT = "2026-11-{:02}T03:00:00.25+00:00"


def night(folder: Path, day: int, ties: int = 3, **changes: Any) -> Path:
    options = {"created": NIGHT.format(day), **changes}
    name = options.pop("file", f"{day:02}.h5")
    return write_findings(folder / name, [Tie(i, distance=i) for i in range(ties)], **options)


def paths(history: audit.History, folder: Path) -> list[str]:
    return [str(row.path.relative_to(folder)) for row in history.rows]


def test_a_row_says_what_the_findings_do(tmp_path: Path) -> None:
    ties = [
        Tie(1, (2, 1), distance=0.5),
        Tie(2, (1, 2), distance=np.nan),
        Tie(3, (0, 3), distance=2.0),
        Tie(4, (3, 0), distance=np.inf),
        Tie(5, (3, 2), distance=3.0),
    ]
    path = write_findings(
        tmp_path / "f.h5", ties, min_logit=1.5, nonfinite=[7], created=NIGHT.format(3)
    )
    (row,) = audit.history(path).rows
    assert row.document() == {
        "created": "2026-11-03T03:00:00.25+00:00",
        "dataset": "/data/pets.h5",
        "dataset_fingerprint": "f00d" * 16,
        "bundle": "pets",
        "manifest_sha256": "ab" * 32,
        "eps": 0.1,
        "min_logit": 1.5,
        "scanned": 100,
        "flagged": 5,
        "rate": 0.05,
        "nonfinite": 1,
        "accuracy": 0.99,
        "median_distance_l2": 2.0,
        "worst_pair": ("ant", "dog"),  # as often as bee and cat: the lower class
        "worst_pair_count": 2,
        "path": str(path),
    }
    assert row.series == Series("f00d" * 16, "pets", 0.1, 1.5)


def test_a_row_of_a_real_scan(mnist_h5: Path, tmp_path: Path) -> None:
    findings = audit.scan(mnist_h5, model="mnist", eps=0.1, out=tmp_path / "f.h5")
    (row,) = audit.history(findings.path).rows
    assert (row.flagged, row.scanned, row.rate) == (12, 10_000, 0.0012)
    with h5py.File(findings.path) as file:
        assert row.median_distance_l2 == np.median(file["flagged/distance_l2"])
        classes = [tuple(sorted(pair)) for pair in file["flagged/classes"][:].tolist()]
    most = max(map(classes.count, classes))
    assert row.worst_pair_count == most
    assert row.worst_pair == tuple(map(str, min(p for p in classes if classes.count(p) == most)))


def test_without_ties_or_distances(tmp_path: Path) -> None:
    night(tmp_path, 1, ties=0)
    night(tmp_path, 2, gradients=False)
    none, bare = audit.history(tmp_path).rows
    assert (none.rate, none.median_distance_l2, none.worst_pair) == (0, None, None)
    assert (bare.median_distance_l2, bare.worst_pair) == (None, ("ant", "bee"))


def test_order_is_of_time_then_of_path(tmp_path: Path) -> None:
    created = {
        "e.h5": "2026-11-02T03:00:00+00:00",
        "d.h5": "2026-11-02T03:00:00.5+00:00",
        "c.h5": "2026-11-02T03:00:00+01:00",  # two in the night, UTC
        "b.h5": "2026-11-02T03:30:00",  # none said: UTC
        "a.h5": "2026-11-02T03:30:00+00:00",
        "y.h5": "yesterday",
        "x.h5": "",
        "w.h5": "9999-12-31T23:59:59-23:59",  # beyond the end of time in UTC
        "v.h5": "0001-01-01T00:00:00+23:59",
    }
    for name, text in created.items():
        night(tmp_path, 1, file=name, created=text)
    order = [path[0] for path in paths(audit.history(tmp_path), tmp_path)]
    assert order == ["c", "e", "d", "a", "b", "x", "v", "w", "y"]


def test_folders_are_searched(tmp_path: Path) -> None:
    for folder in ("deep/er", ".hidden", "other"):
        (tmp_path / folder).mkdir(parents=True)
    night(tmp_path, 1)
    night(tmp_path / "deep/er", 2)
    night(tmp_path / ".hidden", 3)
    night(tmp_path, 4, file=".partial.h5")
    night(tmp_path / "other", 5, file="findings.hdf5")
    os.symlink(tmp_path / "deep", tmp_path / "other" / "again")
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["images"] = np.zeros((2, 2))
    (tmp_path / "notes.h5").write_text("no HDF5")
    os.mkfifo(tmp_path / "pipe.h5")
    damaged = night(tmp_path, 6, file="damaged.h5")
    with h5py.File(damaged, "r+") as file:
        del file["summary"]
    (tmp_path / "zlink.h5").symlink_to("01.h5")  # the same file again
    history = audit.history([tmp_path, tmp_path / "01.h5", tmp_path / "deep"])
    assert paths(history, tmp_path) == ["01.h5", "deep/er/02.h5"]
    assert len(history.passed_over) == 3
    for name, reason in zip(
        ("damaged.h5: incomplete", "notes.h5: not an HDF5", "pipe.h5: not a regular"),
        history.passed_over,
        strict=True,
    ):
        assert name in reason
    hidden = audit.history(tmp_path / ".hidden" / "03.h5")  # named: taken
    assert len(hidden.rows) == 1


@pytest.mark.parametrize("kind", ["missing", "data", "damaged", "empty folder"])
def test_a_named_path_that_holds_none_is_an_error(kind: str, tmp_path: Path) -> None:
    good = night(tmp_path, 1)
    path = tmp_path / "named"
    if kind == "data":
        with h5py.File(path, "w") as file:
            file["images"] = np.zeros((2, 2))
    elif kind == "damaged":
        shutil.copy(good, path)
        with h5py.File(path, "r+") as file:
            del file["summary/pairs"]
    elif kind == "empty folder":
        path.mkdir()
        with pytest.raises(FindingsError, match="named: no findings there"):
            audit.history(path)
        assert len(audit.history([path, good]).rows) == 1
        return
    with pytest.raises(FindingsError, match="named") as caught:
        audit.history([good, path])
    assert "\n" not in str(caught.value)


def test_text(run_audit: Run, tmp_path: Path) -> None:
    night(tmp_path, 2, ties=1200, scanned=12_000, created="2026-11-02T23:30:00-03:00")
    night(tmp_path, 1, nonfinite=[5])
    night(tmp_path, 4, ties=0, eps=0.25, min_logit=2.0, name="pets two")
    night(tmp_path, 5, dataset={**DATASET, "fingerprint": "beef" * 16, "path": "/old/pets.h5"})
    training = {**DATASET, "path": None, "fingerprint": None}
    night(tmp_path, 6, dataset=training, created="?")
    done = run_audit("history", ".")
    assert (done.returncode, done.stderr) == (0, "")
    a, b = "pets.h5 f00df00d", "pets.h5 beefbeef"
    assert done.stdout == (
        f"      date (UTC)  {'dataset':>16}    bundle            ε  scanned  flagged     rate"
        "  median L2         worst pair\n"
        f"2026-11-01 03:00  {a}      pets          0.1      100        3   3.000%          1"
        "      ant / bee (3)\n"
        f"2026-11-03 02:30  {a}      pets          0.1   12,000    1,200  10.000%        600"
        "  ant / bee (1,200)\n"
        f"2026-11-04 03:00  {a}  pets two  0.25, z > 2      100        0   0.000%          -"
        "                  -\n"
        f"2026-11-05 03:00  {b}      pets          0.1      100        3   3.000%          1"
        "      ant / bee (3)\n"
        f"               ?  {'training':>16}      pets          0.1      100        3   3.000%"
        "          1      ant / bee (3)\n"
        "warning   1 with NaN or infinite logits in 01.h5\n"
    )


def test_json(run_audit: Run, tmp_path: Path) -> None:
    for day in (3, 1, 2):
        night(tmp_path, day)
    (tmp_path / "broken.h5").write_text("no HDF5")
    done = run_audit("history", ".", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document.keys() == {"scans", "passed_over", "plot"}
    assert [scan["path"] for scan in document["scans"]] == ["01.h5", "02.h5", "03.h5"]
    assert document["scans"][0]["worst_pair"] == ["ant", "bee"]
    assert "broken.h5" in document["passed_over"][0]


def test_csv_round_trip(run_audit: Run, tmp_path: Path) -> None:
    night(tmp_path, 1, min_logit=-1.5)
    night(tmp_path, 2, ties=0, gradients=False)
    (tmp_path / "broken.h5").write_text("no HDF5")
    done = run_audit("history", ".", "--csv")
    assert done.returncode == 0
    assert done.stderr.startswith("note      passed over broken.h5: not an HDF5 file")
    assert "\r" not in done.stdout
    header, *lines = csv.reader(io.StringIO(done.stdout))
    assert tuple(header) == COLUMNS
    first, second = (dict(zip(header, line, strict=True)) for line in lines)
    assert first["created"] == NIGHT.format(1)
    assert (first["eps"], first["min_logit"], first["rate"]) == ("0.1", "-1.5", "0.03")
    assert (first["worst_pair_a"], first["worst_pair_count"]) == ("ant", "3")
    assert (second["min_logit"], second["median_distance_l2"]) == ("", "")
    assert (second["worst_pair_a"], second["worst_pair_b"]) == ("", "")


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201"],
    ids=repr,
)
def test_no_cell_is_a_formula(text: str, tmp_path: Path) -> None:
    """Whatever a spreadsheet strips or splits at: no cell begins with what it would run."""
    evil = text + '","=2",";=3'
    path = write_findings(
        tmp_path / "f.h5",
        [Tie(1, (0, 1))],
        created=evil,
        dataset={**DATASET, "path": evil, "fingerprint": evil},
        name=evil,
        manifest_sha256=evil,
        classes=[evil, evil, "cat", "dog"],
    )
    out = csv_from_history(audit.history(path))
    header, line = csv.reader(io.StringIO(out))
    cells = dict(zip(header, line, strict=True))
    hostile = ("created", "dataset", "dataset_fingerprint", "bundle", "manifest_sha256")
    for name in (*hostile, "worst_pair_a", "worst_pair_b"):
        assert cells[name][0] in ("'", "\N{REPLACEMENT CHARACTER}"), name
        assert cells[name].endswith('","=2",";=3'), name
    assert not set("\t\r") & set(out)
    assert len(out.splitlines()) == 2


def test_csv_and_json_exclude_each_other(run_audit: Run, tmp_path: Path) -> None:
    night(tmp_path, 1)
    done = run_audit("history", ".", "--csv", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: --csv and --json exclude each other; give one\n"


def test_a_strangers_text_is_no_line_of_ours(tmp_path: Path) -> None:
    evil = "x\nwarning   \x1b[2J" + "y" * 10_000
    night(
        tmp_path, 1, created=evil, name=evil, dataset={**DATASET, "path": evil}, classes=[evil] * 4
    )
    lines = text_from_history(audit.history(tmp_path)).split("\n")
    assert len(lines) == 2
    assert len(lines[1]) < 250


def test_counts_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = night(tmp_path, 1, ties=3)
    with h5py.File(path, "r+") as file:
        file.attrs["scanned"] = 2
        file["summary"].attrs["labelled"] = file["summary"].attrs["correct"] = 1
    with pytest.raises(FindingsError, match="counts that contradict each other"):
        audit.history(path)
    with h5py.File(path, "r+") as file:
        file.attrs["scanned"] = 3
    assert audit.history(path).rows[0].rate == 1


def test_plot_options(tmp_path: Path) -> None:
    path = night(tmp_path, 1)
    for name in ("h.gif", "h", "h.PNG.txt"):
        with pytest.raises(OptionError, match=r"expected a name that ends in \.png"):
            audit.history(path, plot=tmp_path / name)
    with pytest.raises(OutputError, match="no-folder"):
        audit.history(path, plot=tmp_path / "no-folder" / "h.png")
