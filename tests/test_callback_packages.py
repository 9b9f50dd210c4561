"""Both Lightning packages, neither, several processes: each in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import audit
from lit import assert_same

# What the scripts have in common. `PACKAGE` is the one whose Trainer it is.
COMMON = """
import logging, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # Lightning's, of torch 2.13
warnings.filterwarnings("ignore", ".*does not have many workers")
logging.disable(logging.INFO)
import torch
from torch.utils.data import DataLoader, TensorDataset

def module_of(pl):
    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.network = torch.nn.Sequential(
                torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 3)
            )
        def forward(self, x):
            return self.network(x)
        def training_step(self, batch, batch_idx):
            return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)
    return Module()

def trainer_of(pl, callbacks, **options):
    return pl.Trainer(
        callbacks=callbacks, accelerator="cpu", max_epochs=1, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        **{"devices": 1, "logger": False, **options},
    )

def loader():
    made = torch.Generator().manual_seed(1)
    x, y = torch.rand(64, 6, generator=made), torch.randint(3, (64,), generator=made)
    return DataLoader(TensorDataset(x, y), batch_size=8)

EVERYTHING = {"top_k": 1, "min_logit_value": None, "max_logit_difference": 1e6}
"""

LIGHTNING = "import lightning.pytorch as {name}"
PYTORCH_LIGHTNING = "import pytorch_lightning as {name}"
OURS = "from audit.callback import ConfusedLogitCallback"

BLOCK = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""

FIT = """
model = module_of(pl)
given = ConfusedLogitCallback(logging_batch_interval=4, save_to="found.h5", **EVERYTHING)
trainer_of(pl, [given], logger=[CSVLogger("csv"), TensorBoardLogger("board")]).fit(model, loader())
"""


def python(
    script: str, folder: Path, arguments: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run it as a file, so that it can start processes of its own."""
    path = folder / "script.py"
    path.write_text(script)
    return subprocess.run(
        [sys.executable, str(path), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def loggers_of(package: str) -> str:
    return f"from {package}.loggers import CSVLogger, TensorBoardLogger"


ORDERS = {
    "lightning, then ours": (LIGHTNING, OURS, "lightning.pytorch", ()),
    "pytorch_lightning, then ours": (PYTORCH_LIGHTNING, OURS, "pytorch_lightning", ()),
    "only lightning": (OURS, LIGHTNING, "lightning.pytorch", ("pytorch_lightning",)),
    "only pytorch_lightning": (OURS, PYTORCH_LIGHTNING, "pytorch_lightning", ("lightning",)),
}


@pytest.mark.parametrize("order", ORDERS)
def test_package(order: str, tmp_path: Path) -> None:
    """Its Trainer runs the callback, and its loggers get the pictures."""
    first, second, package, hidden = ORDERS[order]
    script = [
        BLOCK.format(names=hidden),
        COMMON,
        first.format(name="pl"),
        second.format(name="pl"),
        loggers_of(package),
        FIT,
    ]
    done = python("\n".join(script), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = audit.load_findings(tmp_path / "found.h5")
    assert (found.scanned, found.flagged) == (16, 16)
    assert package.partition(".")[0] in found.engine["versions"]
    pictures = sorted(each.name for each in tmp_path.glob("csv/**/*.png"))
    assert pictures == ["step_00000004.png", "step_00000008.png"]
    assert list(tmp_path.glob("board/**/events.*"))


def test_both_packages_in_one_process(tmp_path: Path) -> None:
    """One callback is a callback of both, whichever Trainer runs it."""
    script = [
        COMMON,
        OURS,
        LIGHTNING.format(name="first"),
        PYTORCH_LIGHTNING.format(name="second"),
        """
for number, pl in enumerate((first, second)):
    given = ConfusedLogitCallback(
        logging_batch_interval=4, save_to=f"found-{number}.h5", **EVERYTHING
    )
    trainer_of(pl, [given]).fit(module_of(pl), loader())
""",
    ]
    done = python("\n".join(script), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for number, package in enumerate(("lightning", "pytorch_lightning")):
        found = audit.load_findings(tmp_path / f"found-{number}.h5")
        assert found.flagged == 16
        assert package in found.engine["versions"]


@pytest.mark.parametrize("statement", [OURS, "import audit.callback"])
def test_neither_package(statement: str, tmp_path: Path) -> None:
    hide = BLOCK.format(names=("lightning", "pytorch_lightning"))
    script = f"""
{hide}
from audit.errors import InstallationError
from audit.info import info
info("mnist")  # what needs no Lightning works
try:
    {statement}
except InstallationError as exc:
    print(exc)
"""
    done = python(script, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "audit.callback needs Lightning 2: pip install 'near-tie-audit[lightning]'\n"
    )


def test_without_matplotlib(tmp_path: Path) -> None:
    """What is to be plotted can't be, which is said before training; a file needs none."""
    script = [
        COMMON,
        LIGHTNING.format(name="pl"),
        OURS,
        """
import sys
sys.modules["matplotlib"] = None  # torchmetrics, which has it imported, sees it by its metadata
from lightning.pytorch.loggers import CSVLogger
from audit.errors import InstallationError
model = module_of(pl)
before = {name: each.clone() for name, each in model.state_dict().items()}
options = {"logging_batch_interval": 4, "save_to": "found.h5", **EVERYTHING}
try:
    trainer_of(pl, [ConfusedLogitCallback(**options)], logger=CSVLogger("csv")).fit(model, loader())
except InstallationError as exc:
    print(exc)
assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
trainer_of(pl, [ConfusedLogitCallback(**options)]).fit(model, loader())
""",
    ]
    done = python("\n".join(script), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "matplotlib is not installed: pip install 'near-tie-audit[plot]'\n"
    assert audit.load_findings(tmp_path / "found.h5").flagged == 16


# Two processes, on the CPU by gloo. Which ends how is told by files, one a rank.
PROCESSES = """
import sys
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy

class Telling(pl.Callback):
    def on_train_end(self, trainer, pl_module):
        torch.save(pl_module.state_dict(), f"weights-{trainer.global_rank}.pt")

warnings.filterwarnings("default", ".*spreads the parameters")

class FSDPStrategy(DDPStrategy):  # by its name only: the real one refuses the CPU
    pass

if __name__ == "__main__":
    callbacks = [Telling()]
    if sys.argv[1:] == ["with"]:
        options = {**EVERYTHING, "logging_batch_interval": 2, "save_to": "found.h5"}
        callbacks.append(ConfusedLogitCallback(**options))
    trainer = trainer_of(
        pl, callbacks, logger=CSVLogger("csv"), devices=2, strategy=STRATEGY
    )
    trainer.fit(module_of(pl), loader())
"""


def processes(strategy: str, folder: Path, how: str) -> dict[str, Any]:
    """Train with two, and say with which weights each ended."""
    folder.mkdir()
    common = [COMMON, LIGHTNING.format(name="pl"), OURS]
    script = "\n".join([*common, PROCESSES.replace("STRATEGY", strategy)])
    done = python(script, folder, arguments=(how,))
    assert done.returncode == 0, done.stderr
    weights = [torch.load(folder / f"weights-{rank}.pt") for rank in (0, 1)]
    return {"weights": weights, "errors": done.stderr}


def test_two_processes(tmp_path: Path) -> None:
    """Only rank zero looks, at its own half; training is the same without it."""
    without = processes('"ddp"', tmp_path / "without", "without")
    given = processes('"ddp"', tmp_path / "with", "with")
    first, second = given["weights"]
    assert_same(first, without["weights"][0])
    assert_same(second, without["weights"][1])
    assert_same(first, second)
    found = audit.load_findings(tmp_path / "with/found.h5")
    assert (found.scanned, found.flagged) == (16, 16)  # of 2 of its 4 batches
    assert list((tmp_path / "with").glob("*.h5")) == [tmp_path / "with/found.h5"]
    assert not list((tmp_path / "with").glob(".*.partial"))
    pictures = sorted(each.name for each in (tmp_path / "with").glob("csv/**/*.png"))
    assert pictures == ["step_00000002.png", "step_00000004.png"]
    assert not list(tmp_path.glob("without/**/*.png"))


def test_sharded_strategy(tmp_path: Path) -> None:
    """Said once, and nothing is looked at. A stand-in: FSDP itself needs GPUs."""
    done = processes("FSDPStrategy()", tmp_path / "with", "with")
    said = "FSDPStrategy spreads the parameters over several processes, and one alone can't run"
    assert done["errors"].count(said) == 1
    assert not list(tmp_path.glob("**/*.h5"))
    assert not list(tmp_path.glob("**/*.png"))
