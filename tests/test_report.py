"""The report's page without a browser: what it holds, how it is secured, how large it is."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import stat
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import audit
from audit.errors import FindingsError, OptionError, OutputError
from audit.findings import Findings
from audit.gates.result import STATUSES
from audit.reporting.ladder import BUDGET, MIN_SIDE, averaged_shape, choose_encoding
from audit.reporting.names import MAX_NAME, moment, number, shortened
from audit.reporting.page import script_json
from audit.reporting.pictures import NOT_FINITE, block_means, quantise
from conftest import Run
from made_findings import DATASET, Tie, write_findings

HOSTILE = "</script><script>alert(1)</script>\u2028\u202e\ud800 &amp; \"'"


class Page(HTMLParser):
    """Elements with their attributes, and the text of scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem and self.raw:
            tag, attributes, text = self.raw[-1]
            self.raw[-1] = (tag, attributes, text + data)
        else:
            self.text += data

    @property
    def payload(self) -> dict[str, Any]:
        (text,) = [text for _, attributes, text in self.raw if attributes.get("id")]
        document: dict[str, Any] = json.loads(text)
        return document


@pytest.fixture(scope="module")
def mnist_findings(mnist_h5: Path, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    out = tmp_path_factory.mktemp("report") / "mnist.findings.h5"
    return audit.scan(mnist_h5, model="mnist", eps=1.5, limit=2000, out=out)


def reported(findings: Findings | Path, out: Path, **options: Any) -> Page:
    return Page(audit.report(findings, out=out, **options))


def decoded(text: str, dtype: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text), dtype)


def test_samples_and_gradients_are_exact(mnist_findings: Findings, tmp_path: Path) -> None:
    payload = reported(mnist_findings, tmp_path / "r.html").payload
    assert payload["picture"]["gradient"] == "float32"
    row_of = {index: row for row, index in enumerate(mnist_findings.index.tolist())}
    margins = [sample["margin"] for sample in payload["samples"]]
    assert margins == sorted(mnist_findings.margin.tolist())
    for sample in payload["samples"]:
        row = row_of.pop(sample["index"])
        assert_array_equal(decoded(sample["x"], "u1"), mnist_findings.input[row].ravel())
        gradient = mnist_findings.gradient[row]
        assert_array_equal(decoded(sample["g"], "<f4"), gradient.ravel())
        a, b = gradient.reshape(2, -1).astype(np.float64)
        assert sample["dots"] == pytest.approx([a @ a, a @ b, b @ b], rel=1e-9)
        assert sample["label"] == mnist_findings.label[row]
        assert [sample["a"], sample["b"]] == mnist_findings.classes[row].tolist()
        logits = dict(sample["logits"])
        assert logits[sample["a"]] == pytest.approx(sample["za"], rel=1e-5)
        assert len(logits) == 10
    assert row_of == {}


def test_policy_names_what_is_in_the_page(mnist_findings: Findings, tmp_path: Path) -> None:
    page = reported(mnist_findings, tmp_path / "r.html")
    (policy,) = [each["content"] for _, each in page.elements if "http-equiv" in each]
    assert policy is not None
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    run = {"script": set[str](), "style": set[str]()}
    for tag, attributes, text in page.raw:
        if "type" not in attributes:
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            run[tag].add(f"'sha256-{digest}'")
    assert set(directives.pop("script-src").split()) == run["script"]
    assert set(directives.pop("style-src").split()) == run["style"]
    assert (len(run["script"]), len(run["style"])) == (2, 1)
    assert directives == {
        "default-src": "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_page_asks_for_nothing(mnist_findings: Findings, tmp_path: Path) -> None:
    page = reported(mnist_findings, tmp_path / "r.html")
    for _, attributes in page.elements:
        assert "src" not in attributes
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
    source = "".join(text for _, _, text in page.raw)
    assert "Permission is hereby granted" in source
    assert "Leon Sorokin" in source


def test_names_are_text(tmp_path: Path) -> None:
    names = [HOSTILE, "bee", "cat", "dog"]
    path = write_findings(
        tmp_path / "f.h5", [Tie(3)], name=HOSTILE.replace("\ud800", ""), classes=names
    )
    page = reported(path, tmp_path / "r.html")
    assert [tag for tag, _ in page.elements].count("script") == 3
    source = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>alert" not in source
    assert not set("\u2028\u202e") & set(source)
    assert page.payload["classes"]["0"].startswith("</script><script>alert(1)")


def test_json_in_a_script() -> None:
    text = script_json({"name": HOSTILE})
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"name": HOSTILE}
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json({"value": float("nan")})


def test_new_samples_come_first(tmp_path: Path) -> None:
    old = write_findings(tmp_path / "old.h5", [Tie(1), Tie(2), Tie(9)])
    new = write_findings(
        tmp_path / "new.h5", [Tie(1, margin=0.01), Tie(2, margin=0.02), Tie(5, margin=0.09)]
    )
    page = reported(new, tmp_path / "r.html", baseline=old, max_samples=2)
    assert [(each["index"], each["new"]) for each in page.payload["samples"]] == [
        (5, True),
        (1, False),
    ]
    assert "2 of the 3 near ties are on this page" in page.text
    alone = reported(new, tmp_path / "r.html", max_samples=2)
    assert [each["index"] for each in alone.payload["samples"]] == [1, 2]
    assert not alone.payload["baseline"]


def test_baseline_of_another_dataset(tmp_path: Path) -> None:
    old = write_findings(tmp_path / "old.h5", dataset=DATASET | {"fingerprint": "0" * 64})
    new = write_findings(tmp_path / "new.h5")
    with pytest.raises(FindingsError, match="different datasets"):
        audit.report(new, out=tmp_path / "r.html", baseline=old)
    assert not (tmp_path / "r.html").exists()


def test_only_a_report_is_written_over(tmp_path: Path) -> None:
    path = write_findings(tmp_path / "f.h5", [Tie(1)])
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"f\.h5: exists and is not a report; name another"):
        audit.report(path, out=path)
    assert path.read_bytes() == before
    out = tmp_path / "r.html"
    out.touch()
    for _ in range(2):
        assert len(reported(path, out).payload["samples"]) == 1


def test_gates_are_on_the_page(tmp_path: Path) -> None:
    path = write_findings(tmp_path / "f.h5", [Tie(1), Tie(2)])
    page = reported(path, tmp_path / "r.html", gates={"max_count": 1})
    status = {
        each["data-gate"]: each["data-status"] for _, each in page.elements if "data-gate" in each
    }
    assert status["max_count"] == "FAIL"
    ranks = [list[str | None](STATUSES).index(each) for each in status.values()]
    assert ranks == sorted(ranks, reverse=True)  # what needs a person comes first
    assert status["complete"] == "PASS"


def test_verdict_names_the_gates_that_do_not_pass(tmp_path: Path) -> None:
    path = write_findings(
        tmp_path / "f.h5",
        [Tie(1), Tie(2), Tie(3, classes=(2, 3))],
        engine={"guard": 0.001, "rescans": ...},
    )

    def verdict(**gates: Any) -> str:
        page = reported(path, tmp_path / "r.html", gates=gates)
        return page.text.partition("Near ties")[2].partition("Headline")[0]

    assert "max_count" not in verdict(max_count=9)
    said = verdict(max_rate=0.001, max_pair_count=1, max_count={"warn": 1}, min_accuracy=0)
    needing = "guard_held, max_rate, max_pair_count[ant/bee], max_count"
    assert f"ERROR {needing}: 1 gate can't tell, 2 failed, 1 warned" in said
    assert "min_accuracy" not in said
    assert "max_pair_count (2 pairs)" in verdict(max_pair_count=0)
    every = dict.fromkeys(("max_rate", "max_count", "max_pair_rate", "max_pair_count"), 0)
    distances = dict.fromkeys(("min_median_l2", "min_median_linf", "min_nth_l2"), 9)
    assert ", 2 more: " in verdict(**every, **distances | {"min_nth_l2": {"n": 1, "fail": 9}})


def test_one_near_tie_is_one(tmp_path: Path) -> None:
    page = reported(write_findings(tmp_path / "f.h5", [Tie(1)]), tmp_path / "r.html")
    (label,) = [each["aria-label"] for _, each in page.elements if each.get("id") == "margin-plot"]
    assert ", 1 near tie below" in str(label)
    assert "1 near tie \N{EN DASH}" in page.text


def test_a_baselines_path_is_text(tmp_path: Path) -> None:
    old = write_findings(tmp_path / "\u202eold.h5", [Tie(1)])
    reported(write_findings(tmp_path / "f.h5", [Tie(1)]), tmp_path / "r.html", baseline=old)
    assert "\u202e" not in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("margin_edges", np.zeros(0)),
        ("margin_edges", np.array([0, 2, 1, 3.0])),
        ("margin_edges", np.array([0, 1, np.inf])),
        ("margin_counts", np.zeros(3, np.int64)),
        ("pairs", np.zeros((4, 5), np.int64)),
    ],
)
def test_summaries_that_cannot_be(name: str, values: Any, tmp_path: Path) -> None:
    path = write_findings(tmp_path / "f.h5", [Tie(1)])
    with h5py.File(path, "r+") as file:
        del file["summary"][name]
        file["summary"][name] = values
    with pytest.raises(FindingsError, match=r"expected.*; scan again"):
        audit.report(path, out=tmp_path / "r.html")


@pytest.mark.parametrize("ties", [[], [Tie(1)]], ids=["nothing", "no gradients"])
def test_without(ties: list[Tie], tmp_path: Path) -> None:
    path = write_findings(tmp_path / "f.h5", ties, gradients=False)
    page = reported(path, tmp_path / "r.html")
    assert [each["g"] for each in page.payload["samples"]] == [None] * len(ties)
    assert page.payload["picture"]["gradient"] is None
    assert ("nothing is tied" in page.text) == (not ties)


def test_findings_that_do_not_say_what_their_samples_are(tmp_path: Path) -> None:
    path = write_findings(tmp_path / "f.h5", [Tie(1)], raw=..., input=...)
    with pytest.raises(FindingsError, match="name it with --model"):
        audit.report(path, out=tmp_path / "r.html")


def test_options(tmp_path: Path) -> None:
    path = write_findings(tmp_path / "f.h5", [Tie(1)])
    for wrong in ({"max_samples": -1}, {"feature_names": ["one"]}):
        with pytest.raises(OptionError):
            audit.report(path, out=tmp_path / "r.html", **wrong)
    page = reported(path, tmp_path / "r.html", feature_names=["left", "<b>"])
    assert page.payload["feature_names"] == ["left", "<b>"]
    assert reported(path, tmp_path / "r.html", max_samples=0).payload["samples"] == []


@pytest.mark.parametrize(
    ("samples", "shape", "dtype", "expected"),
    [
        (500, (1, 28, 28), "uint8", (500, 1, "uint8", "float32")),
        (500, (3, 32, 32), "uint8", (500, 1, "uint8", "int8")),
        (500, (3, 224, 224), "uint8", (500, 6, "uint8", "int8")),
        (500, (3, 224, 224), "float32", (500, 9, "float32", "int8")),
        (5000, (1, 28, 28), "uint8", (2866, 1, "uint8", "int8")),
        (500, (12,), "float16", (500, 1, "float32", "float32")),
        (500, (100_000,), "float32", (11, 1, "float32", "int8")),
    ],
)
def test_ladder(
    samples: int, shape: tuple[int, ...], dtype: str, expected: tuple[int, int, str, str]
) -> None:
    chosen = choose_encoding(samples, shape, dtype, gradients=True)
    assert (chosen.pictured, chosen.factor, chosen.dtype, chosen.gradient) == expected
    assert chosen.shape == averaged_shape(shape, chosen.factor)
    item = np.dtype(chosen.dtype).itemsize + 2 * np.dtype(chosen.gradient).itemsize
    assert chosen.pictured * item * np.prod(chosen.shape) * 4 / 3 <= BUDGET
    assert chosen.factor == 1 or max(chosen.shape) >= MIN_SIDE


def test_averages_commute_with_projections() -> None:
    rng = np.random.default_rng(1)
    x, g = rng.normal(size=(2, 3, 10, 7))
    whole = block_means(x + 1.7 * g, 3)
    assert whole.shape == (3, 4, 3)
    np.testing.assert_allclose(whole, block_means(x, 3) + 1.7 * block_means(g, 3), rtol=1e-12)
    assert whole[1, 3, 2] == pytest.approx((x + 1.7 * g)[1, 9, 6])  # a block of one


def test_quantised_gradients() -> None:
    values, scale = quantise(np.array([-2.0, 0, 1, np.nan, np.inf, 0.004], np.float32))
    assert values.tolist() == [-127, 0, 64, NOT_FINITE, NOT_FINITE, 0]
    assert scale == pytest.approx(2 / 127)
    assert quantise(np.zeros(2)).values.tolist() == [0, 0]


def test_names_and_numbers() -> None:
    assert shortened("a\n b\0\u202ec") == "a b\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}c"
    assert len(shortened("x" * 10_000_000)) == MAX_NAME
    assert number(1e-9) == "1e\N{MINUS SIGN}9"
    assert moment("2026-11-24T18:59:03.5+02:00") == "2026-11-24 16:59 UTC"
    assert moment("last night") == "last night"
    assert moment("0001-01-01T00:00:00+14:00") == "0001-01-01T00:00:00+14:00"  # before all of UTC


def test_command_line(mnist_findings: Findings, tmp_path: Path, run_audit: Run) -> None:
    done = run_audit("report", mnist_findings.path, "--max-samples", 3)
    assert (done.returncode, done.stdout) == (0, "report    mnist.report.html\n")
    (page,) = tmp_path.rglob("mnist.report.html")
    assert len(Page(page).payload["samples"]) == 3
    done = run_audit("report", "nothing.h5")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("works", [True, False])
def test_view(works: bool, tmp_path: Path, run_audit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_findings(tmp_path / "f.h5", [Tie(1)])
    browser, seen = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{seen}"\nexit {0 if works else 3}\n')
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    monkeypatch.setenv("PATH", "/nowhere")  # no other browser
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = run_audit("view", path)
    assert (done.returncode, done.stderr) == (0 if works else 1, "")
    (page,) = (tmp_path / "cache" / "near-tie-audit").iterdir()
    assert re.fullmatch(r"f-[0-9a-f]{12}\.html", page.name)
    assert str(page) in done.stdout
    assert ("no browser can be opened" in done.stdout) == (not works)
    assert seen.read_text() == f"{page.as_uri()}\n" if works else True
    assert Page(page).payload["samples"][0]["index"] == 1
