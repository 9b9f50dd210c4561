"""What `audit diff` prints, and how it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from conftest import Run
from made_findings import DATASET, Tie, every_margin, write_findings

ROOT = Path(__file__).parents[1]
OTHER_MODEL: dict[str, Any] = {"manifest_sha256": "cd" * 32}
OLD_TIES = [Tie(3, (0, 1), 0.05), Tie(5, (2, 0), 0.01, label=-1), Tie(9, (0, 1), 0.02)]
NEW_TIES = [
    Tie(3, (1, 0), 0.0125, label=1, distance=0.125),
    Tie(7, (3, 0), 0.15, label=3, distance=np.nan),
    Tie(8, (0, 3), 0.08),
    Tie(9, (0, 1), 0.02),
]


def write_pair(folder: Path) -> None:
    """Two nights: ε grew, and the model changed."""
    before, now = every_margin(100), every_margin(100)
    before.margin[7], before.margin[8] = 0.12, 4.0
    before.classes[8] = (2, 1)
    now.classes[40], now.margin[40] = (2, 1), 3.25
    now.margin[5] = 1.5
    write_findings(folder / "old.h5", OLD_TIES, every=before, created="2026-11-23T03:00:59.5+00:00")
    write_findings(
        folder / "new.h5",
        NEW_TIES,
        every=now,
        eps=0.2,
        nonfinite=[50],
        created="2026-11-24T03:00:00+00:00",
        **OTHER_MODEL,
    )


def test_text(run_audit: Run, tmp_path: Path) -> None:
    write_pair(tmp_path)
    done = run_audit("diff", "old.h5", "new.h5", "-o", "diff.h5")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "old       old.h5: pets at ε = 0.1, 3 near ties of 100, 2026-11-23 03:00\n"
        "new       new.h5: pets at ε = 0.2, 4 near ties of 100, 2026-11-24 03:00\n"
        "dataset   /data/pets.h5: 100 samples compared\n"
        "newly     2 newly tied: 1 since the model changed, 1 only since ε changed\n"
        "left      1 no longer tied: 1 since the model changed\n"
        "still     2 still tied: another margin 1, another predicted class 1, another pair of "
        "classes 0\n"
        "warning   NaN or infinite logits: 1 newly, 0 no longer\n"
        "flips     5 predictions changed of 99: 4 while tied, 1 while confident; 1 left out, of "
        "NaN or infinite logits\n"
        "closest of the newly tied\n"
        "  index    classes  label    margin  distance L2  distance L∞       before      since\n"
        "      8  ant / dog    ant  0.080000          0.5        0.125     cat by 4      model\n"
        "      7  dog / ant    dog  0.150000            -            -  ant by 0.12  threshold\n"
        "closest of the no longer tied\n"
        "  index    classes    label    margin  distance L2  distance L∞         now  since\n"
        "      5  cat / ant  unknown  0.010000          0.5        0.125  ant by 1.5  model\n"
        "largest changes of the still tied\n"
        "  index                classes  label               margin  distance L2\n"
        "      3  ant / bee → bee / ant    bee  0.050000 → 0.012500  0.5 → 0.125\n"
        "most frequent flips\n"
        "  prediction  samples\n"
        "   cat → ant        2\n"
        "   ant → bee        1\n"
        "   ant → cat        1\n"
        "   ant → dog        1\n"
        "most confident flips\n"
        "  index  prediction    margin\n"
        "     40   ant → cat  5 → 3.25\n"
        "diff      diff.h5\n"
    )


def test_json_says_the_same(run_audit: Run, tmp_path: Path) -> None:
    write_pair(tmp_path)
    done = run_audit("diff", "old.h5", "new.h5", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document.keys() == {
        "old", "new", "dataset", "samples", "common", "same_bundle", "same_thresholds",
        "unchanged", "newly", "left", "still", "nonfinite", "flips", "without_keep_all",
        "without_gradients", "diff",
    }  # fmt: skip
    assert document["old"]["eps"] == 0.1
    assert document["new"]["created"] == "2026-11-24T03:00:00+00:00"
    assert {k: v for k, v in document["newly"].items() if k != "closest"} == {
        "count": 2, "model": 1, "threshold": 1, "unknown": 0,
    }  # fmt: skip
    first = document["newly"]["closest"][1]
    assert (first["index"], first["label_name"], first["distance_l2"]) == (7, "dog", None)
    assert first["old_names"] == ["ant", "bee"]
    assert document["nonfinite"] == {"newly": 1, "left": 0}
    assert document["flips"]["confident"] == 1
    assert document["flips"]["most_confident"][0]["new_margin"] == 3.25
    assert (document["same_bundle"], document["unchanged"], document["diff"]) == (
        False,
        False,
        None,
    )
    assert not (tmp_path / "diff.h5").exists()


def test_quiet_prints_nothing_but_writes(run_audit: Run, tmp_path: Path) -> None:
    write_pair(tmp_path)
    done = run_audit("diff", "old.h5", "new.h5", "--quiet", "-o", "diff.h5")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "kind          diff" in run_audit("info", "diff.h5").stdout


def test_says_what_is_missing_and_how_to_have_it(run_audit: Run, tmp_path: Path) -> None:
    every = every_margin(100)
    write_findings(tmp_path / "bare.h5", [Tie(3)], gradients=False)
    write_findings(tmp_path / "all.h5", every=every, eps=0.2, **OTHER_MODEL)
    write_findings(tmp_path / "new.h5", [Tie(8)], eps=0.2, **OTHER_MODEL)
    first = run_audit("diff", "bare.h5", "all.h5").stdout
    assert "flips     not known: scan OLD again with --keep-all\n" in first
    assert "note      bare.h5 has no distances: it was scanned with --no-gradients\n" in first
    second = run_audit("diff", "all.h5", "bare.h5").stdout
    assert "flips     not known: scan NEW again with --keep-all\n" in second
    both = run_audit("diff", "bare.h5", "new.h5").stdout
    assert "flips     not known: scan both again with --keep-all\n" in both
    assert "newly     1 newly tied: 1 for either reason\n" in both
    assert "note      to tell why samples are newly tied, scan OLD again with --keep-all" in both
    assert re.search(r"8 +ant / bee .* ≥ 0\.1 +either\n", both)


def test_unchanged_and_the_same_file(run_audit: Run, tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        write_findings(tmp_path / name, [Tie(3)], every=every_margin(100))
    two = run_audit("diff", "a.h5", "b.h5").stdout
    assert two.splitlines()[-1] == "note      nothing changed but by rounding"
    same = run_audit("diff", "a.h5", str(tmp_path / "a.h5")).stdout
    assert same.splitlines()[-1] == "note      OLD and NEW are the same file"


def test_a_shorter_scan_is_said(run_audit: Run, tmp_path: Path) -> None:
    write_findings(tmp_path / "a.h5")
    write_findings(tmp_path / "b.h5", scanned=40)
    for order, side in ((("a.h5", "b.h5"), "NEW"), (("b.h5", "a.h5"), "OLD")):
        text = run_audit("diff", *order).stdout
        assert f"the first 40 samples compared, since {side} scanned no more\n" in text


def test_refusals_are_one_line(run_audit: Run, tmp_path: Path) -> None:
    write_findings(tmp_path / "a.h5")
    write_findings(tmp_path / "b.h5", dataset={**DATASET, "fingerprint": "beef" * 16})
    write_findings(tmp_path / "c.h5", dataset={**DATASET, "fingerprint": None})
    for other, reason in (
        ("b.h5", "of different datasets"),
        ("c.h5", "made during training"),
        ("d.h5", "no such file"),
    ):
        done = run_audit("diff", "a.h5", other, "-o", "diff.h5")
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "diff.h5").exists()


def test_a_strangers_names_are_no_lines_of_ours(run_audit: Run, tmp_path: Path) -> None:
    evil = "x\nflips     0 predictions\x1b[2J" + "y" * 1000
    for name in ("a.h5", "b.h5"):
        write_findings(
            tmp_path / name,
            [Tie(3 if name == "a.h5" else 4)],
            dataset={**DATASET, "path": evil[:40]},
            created=evil,
            name=evil,
            classes=[evil, evil, "cat", "dog"],
        )
    done = run_audit("diff", "a.h5", "b.h5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("flips")] == [
        "flips     not known: scan both again with --keep-all"
    ]
    assert max(map(len, done.stdout.splitlines())) < 200


def test_numbers_that_are_none_are_said_as_none(run_audit: Run, tmp_path: Path) -> None:
    """No scan writes these, but a file can hold them: JSON has no NaN."""
    write_pair(tmp_path)
    with h5py.File(tmp_path / "new.h5", "r+") as file:
        for name in ("margin", "logits", "distance_l2", "distance_linf"):
            file[f"flagged/{name}"][:] = np.nan
        file["scan/margin"][40] = np.inf
        file["flagged/classes"][1] = (-5, 2**62)
    done = run_audit("diff", "old.h5", "new.h5", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert [tie["margin"] for tie in document["newly"]["closest"]] == [None, None]
    assert document["newly"]["closest"][0]["names"] == ["class -5", f"class {2**62}"]
    assert [change["margin_change"] for change in document["still"]["largest"]] == [None, None]
    assert document["flips"]["most_confident"][0]["new_margin"] is None
    done = run_audit("diff", "old.h5", "new.h5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "5 → -\n" in done.stdout


def test_documented_example_runs(run_audit: Run, tmp_path: Path) -> None:
    write_pair(tmp_path)
    run_audit("diff", "old.h5", "new.h5", "-o", "diff.h5", check=True)
    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "diff.md").read_text(), re.DOTALL
    )
    out = subprocess.check_output([sys.executable, "-c", example], cwd=tmp_path, text=True)
    assert out == "1 of 5 flips while confident\nsample 40: 0, now 2\n"
