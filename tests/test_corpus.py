"""Every file of the corpus, read to the end: whole ones are read, hostile ones do no harm."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from audit.errors import AuditError
from fuzzing.kind import CORPUS, Kind, check_message
from fuzzing.kinds import KINDS

HOSTILE = sorted((CORPUS / "hostile").iterdir())
GUIDED = sorted((CORPUS / "guided").iterdir())
MOST_BYTES, MOST_IN_ALL = 20_000, 300_000
# An attribute that is of no use to anybody; a chunk that HDF5 doesn't find, but this program does.
READ = ("endless-heap-dataset.h5", "lost-chunk.h5")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_seeds_are_read(kind: Kind, tmp_path: Path) -> None:
    """Unmutated, none is refused: the readers of the harness get to the end."""
    assert kind.seeds
    for number, seed in enumerate(kind.seeds):
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / f"input{kind.suffix}"
        path.write_bytes(seed)
        kind.read(path, number + 1)


@pytest.mark.parametrize("source", HOSTILE, ids=lambda path: path.name)
def test_hostile_files(source: Path, tmp_path: Path) -> None:
    content = source.read_bytes()
    path = tmp_path / "input.h5"
    path.write_bytes(gzip.decompress(content) if source.suffix == ".gz" else content)
    kind = KINDS["findings" if "findings" in source.name else "dataset"]
    if source.name in READ:
        kind.read(path, 1)
    else:
        with pytest.raises(AuditError, match=r"input\.h5"):
            kind.read(path, 1)


@pytest.mark.parametrize("source", GUIDED, ids=lambda path: path.name)
def test_refusals_found_by_guidance(source: Path, tmp_path: Path) -> None:
    kind = KINDS[source.name.partition("-")[0]]
    path = tmp_path / f"input{kind.suffix}"
    path.write_bytes(source.read_bytes())
    with pytest.raises(AuditError) as refused:
        kind.read(path, 1)
    check_message(refused.value)


def test_files_are_small_and_described() -> None:
    described = (CORPUS / "README.md").read_text()
    files = [
        path for path in CORPUS.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    ]
    assert all(path.stat().st_size < MOST_BYTES for path in files)
    assert sum(path.stat().st_size for path in files) < MOST_IN_ALL
    for path in HOSTILE:
        assert f"`{path.name}`" in described
