"""Makes the files of this folder anew: PYTHONPATH=tests python tests/corpus/make.py."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import save_file

import audit
from fuzzing.kind import SEEDS
from fuzzing.kinds import KINDS
from fuzzing.worker import input_of
from hostile_hdf5 import (
    DEFLATE,
    SCALE_OFFSET,
    SHAPE,
    UNKNOWN_FILTER,
    bomb,
    retold,
    stored,
    with_endless_heap,
)
from made_findings import Tie, write_findings

HOSTILE = Path(__file__).parent / "hostile"
LOST_CHUNK = 9133  # the mutation of a dataset, which other seeds may make harmless
FEATURES, CLASSES, SAMPLES = 4, 3, 40
STORAGES: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "gzip": {"chunks": (16, FEATURES), "compression": "gzip"},
    "chunked": {"chunks": (7, 3), "maxshape": (None, None)},
    "shuffled": {"chunks": (16, FEATURES), "compression": "gzip", "shuffle": True},
    "lzf": {"chunks": (16, FEATURES), "compression": "lzf", "fletcher32": True},
    "scaled": {"chunks": (16, FEATURES), "scaleoffset": 3},
}
CONFIG = """\
model = "mnist"
eps = 0.1
min_logit = 2.5
device = "cpu"
images = "images"
labels = "labels"

[gates]
max_rate = 0.002
max_nonfinite = 0
max_class_rate = { warn = 0.001, fail = 0.01 }
min_accuracy = { fail = 0.9 }
guard_held = true
level = 0.01
"""


def main() -> None:
    """Everything under `seeds` and `hostile`."""
    torch.manual_seed(0)
    network = torch.nn.Linear(FEATURES, CLASSES).eval()
    shutil.rmtree(SEEDS, ignore_errors=True)
    SEEDS.mkdir()
    audit.export(network, SEEDS / "bundle", input_shape=(FEATURES,), raw_layout="F")
    _write_datasets()
    _write_results()
    (SEEDS / "audit.toml").write_text(CONFIG)
    torch.save(network.state_dict(), SEEDS / "weights.pt")
    save_file(network.state_dict(), SEEDS / "weights.safetensors")
    write_hostile()


def _write_datasets() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    labels = rng.integers(0, CLASSES, SAMPLES)
    for name, storage in STORAGES.items():
        for latest in (False, True):
            version = {"libver": "latest"} if latest else {}
            path = SEEDS / f"dataset-{name}{'-latest' if latest else ''}.h5"
            with h5py.File(path, "w", **version) as file:
                file.create_dataset("images", data=images, **storage)
                file.create_dataset("labels", data=labels)
                file.attrs["audit_bundle"] = "mnist"


def _write_results() -> None:
    """Deflated, since chunks that are allocated whole are mostly zeros."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        data, bundle = SEEDS / "dataset-contiguous.h5", SEEDS / "bundle"
        old, new = made / "findings.h5", made / "findings-wider.h5"
        audit.scan(data, eps=0.2, model=bundle, out=old, keep_all=True)
        audit.scan(data, eps=0.3, model=bundle, out=new, keep_all=True)
        audit.ascend(old, model=bundle, out=made / "ascents.h5", minimal=True)
        audit.diff(old, new, out=made / "diff.h5")
        for path in made.iterdir():
            (SEEDS / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))


def write_hostile() -> None:
    """What a stranger may send."""
    shutil.rmtree(HOSTILE, ignore_errors=True)
    HOSTILE.mkdir()
    twice = zlib.compress(bomb(4 * 10**8), 9)
    stored(HOSTILE / "deflate-twice.h5", [(DEFLATE, (4,)), (DEFLATE, (4,))], twice)
    scaled = stored(HOSTILE / "scale-offset.h5", [(SCALE_OFFSET, (2, 0))], bytes(21))
    elements = int(np.prod(SHAPE))
    retold(scaled, (2, 0, elements, 0, 1), (2, 0, 2**31 - 1, 0, 8))
    stored(HOSTILE / "unknown-filter.h5", [(UNKNOWN_FILTER, ())], bytes(99))
    shutil.copy(SEEDS / "dataset-contiguous.h5", HOSTILE / "endless-heap-dataset.h5")
    with_endless_heap(HOSTILE / "endless-heap-dataset.h5")
    findings = write_findings(HOSTILE / "endless-heap-findings.h5", [Tie(3)])
    content = with_endless_heap(findings).read_bytes()
    findings.unlink()
    findings.with_suffix(".h5.gz").write_bytes(gzip.compress(content, 9, mtime=0))
    (HOSTILE / "lost-chunk.h5").write_bytes(input_of(KINDS["dataset"], LOST_CHUNK))
    with h5py.File(HOSTILE / "no-bytes.h5", "w") as file:
        file.create_dataset("images", (2**62, 0), "u1")


if __name__ == "__main__":
    main()
