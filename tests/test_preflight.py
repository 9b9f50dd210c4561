"""Models that can't be audited, each refused by `audit.export` with what and how; and the caller's
model, which stays as it was.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import audit
from audit.errors import ModelError
from audit.preflight import CALLS, check_same_gradients
from audit.torchscript import plain_execution, profiling_execution
from oracles import write_dataset

FEATURES, CLASSES = 6, 3


class Net(nn.Module):
    """Six features through a forward pass that a test wrote; `l` is a linear layer for it."""

    def __init__(self, forward: Callable[[Net, Tensor], Any], classes: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.l = nn.Linear(FEATURES, classes)
        self.register_buffer("count", torch.zeros(()))
        self.count: Tensor
        self.written = forward

    def forward(self, x: Tensor) -> Any:
        return self.written(self, x)


class Stuck(nn.Linear):
    def train(self, mode: bool = True) -> Stuck:
        self.training = True
        return self


class RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class OverTheBatch(nn.Module):
    """Attention with the batch where the sequence belongs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attention(x, x, x, need_weights=False)
        logits: Tensor = self.head(attended.mean(1))
        return logits


def filled(value: float, buffer: bool = False) -> nn.Module:
    layers = nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, CLASSES))
    if buffer:
        layers.get_buffer("0.running_var")[2] = value
    else:
        with torch.no_grad():
            layers.get_parameter("1.weight")[1, 2] = value
    return layers


def hidden_state(net: Net, x: Tensor) -> Tensor:
    net.count += 1
    logits: Tensor = net.l(x) * net.count
    return logits


def without_gradients(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = net.l(x)
    return logits


def batch_norm(kind: type[nn.Module], *inner: nn.Module) -> nn.Module:
    return nn.Sequential(*inner, kind(4, track_running_stats=False), nn.Flatten())


@dataclass(frozen=True)
class Row:
    model: Callable[[], nn.Module]
    what: str
    how: str
    input_shape: tuple[int, ...] = (FEATURES,)
    classes: Sequence[str] | None = None


def net(forward: Callable[[Net, Tensor], Any], classes: int = CLASSES) -> Callable[[], nn.Module]:
    return lambda: Net(forward, classes)


WHOLE_OUTPUT = "expected logits (N, C), one row a sample"
IN_PLACE = "modifies its input in place"
BAKED = "the batch size is x.shape[0] in forward"
NEIGHBOURS = "the logits of a sample depend on its neighbours in the batch"
REFUSED = {
    "softmax": Row(
        net(lambda m, x: m.l(x).softmax(1)), "the outputs are probabilities", "remove the softmax"
    ),
    "softmax in float32": Row(
        net(lambda m, x: m.l(x).float().softmax(1)), "are probabilities", "remove the softmax"
    ),
    "log-softmax": Row(
        net(lambda m, x: m.l(x).log_softmax(1)), "log-probabilities", "remove the log_softmax"
    ),
    "(N,)": Row(net(lambda m, x: m.l(x)[:, 0]), "returns shape (16,)", WHOLE_OUTPUT),
    "(N, C, 1)": Row(net(lambda m, x: m.l(x)[..., None]), "returns shape (16, 3, 1)", WHOLE_OUTPUT),
    "(C,)": Row(net(lambda m, x: m.l(x).mean(0)), "returns shape (3,)", WHOLE_OUTPUT),
    "tuple": Row(net(lambda m, x: (m.l(x), x)), "returns tuple", "returns just the logits"),
    "dict": Row(net(lambda m, x: {"logits": m.l(x)}), "returns dict", "returns just the logits"),
    "one class": Row(net(lambda m, x: m.l(x), 1), "one output", "torch.cat([torch.zeros_like(z)"),
    "integers": Row(
        net(lambda m, x: m.l(x).long()), "returns torch.int64", "expected floating-point logits"
    ),
    "class names": Row(
        net(lambda m, x: m.l(x)), "--classes names 2 classes", "has 3 logits", classes=("a", "b")
    ),
    "training mode": Row(
        lambda: nn.Sequential(Stuck(FEATURES, CLASSES)), "'0' stays in training mode", "super()."
    ),
    "BatchNorm2d": Row(
        lambda: batch_norm(nn.BatchNorm2d), NEIGHBOURS, "track_running_stats=True", (4, 2, 2)
    ),
    "BatchNorm1d": Row(  # which fails on one sample alone
        lambda: batch_norm(nn.BatchNorm1d, nn.Linear(FEATURES, 4)), NEIGHBOURS, "running statistics"
    ),
    "attention over the batch": Row(OverTheBatch, NEIGHBOURS, "batch_first=True", (3, 4)),
    "batch mean": Row(net(lambda m, x: m.l(x - x.mean(0))), NEIGHBOURS, "averages"),
    "previous sample": Row(net(lambda m, x: m.l(x) + x.roll(1, 0)[:, :3]), NEIGHBOURS, "averages"),
    "round": Row(net(lambda m, x: m.l(x.round())), "zero at every input", "round, sign"),
    "sign": Row(net(lambda m, x: m.l(x).sign()), "zero at every input", "round, sign"),
    "all weights zero": Row(
        net(lambda m, x: m.l(x) * 0 + m.l.bias), "zero at every input", "weights aren't all zero"
    ),
    "detached": Row(net(lambda m, x: m.l(x.detach())), "no gradient", "remove detach()"),
    "no_grad": Row(net(without_gradients), "no gradient", "torch.no_grad()"),
    "numpy": Row(
        net(lambda m, x: m.l(torch.from_numpy(x.detach().numpy()))), "no gradient", "numpy"
    ),
    "gradients NaN": Row(
        net(lambda m, x: m.l(x) + (0 * x[:, :3]).sqrt()), "logits are NaN or inf", "under roots"
    ),
    "gradients NaN in TorchScript": Row(  # where relu's backward multiplies by 0
        net(lambda m, x: m.l(x.relu().sqrt())), "other gradients than the model", "under roots"
    ),
    "weight NaN": Row(lambda: filled(torch.nan), "'1.weight' holds NaN", "train the model again"),
    "weight infinite": Row(lambda: filled(torch.inf), "'1.weight' holds", "train the model again"),
    "weight -inf": Row(lambda: filled(-torch.inf), "'1.weight' holds", "train the model again"),
    "buffer NaN": Row(lambda: filled(torch.nan, True), "'0.running_var'", "train the model again"),
    "logits NaN": Row(
        net(lambda m, x: m.l(x).log()), "are NaN or infinite", "check --scale, --mean and --std"
    ),
    "logits infinite": Row(net(lambda m, x: m.l(x) / 0), "are NaN or infinite", "--scale"),
    "random": Row(
        net(lambda m, x: m.l(functional.dropout(x))), "two runs", "training=self.training"
    ),
    "state that counts": Row(net(hidden_state), "two runs", "state that counts"),
    "input shape": Row(
        net(lambda m, x: m.l(x)), "fails on an input of shape (16, 7)", "--input-shape is", (7,)
    ),
    "with N": Row(
        net(lambda m, x: m.l(x)), "returns shape (16, 1, 3)", WHOLE_OUTPUT, (1, FEATURES)
    ),
    "fixed dtype": Row(net(lambda m, x: m.l(x.float())), "same dtype", "fix no dtype in forward"),
    "custom backward": Row(
        net(lambda m, x: m.l(RoundStraightThrough.apply(x))),  # type: ignore[no-untyped-call]
        "can't be exported to TorchScript: custom backward passes",
        "write the forward pass so that its own derivative is the one you want",
    ),
    "in place": Row(net(lambda m, x: m.l(x.sub_(0.5))), IN_PLACE, "write x = x - 0.5"),
    "in place, a layer": Row(
        lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(FEATURES, CLASSES)),
        IN_PLACE,
        "inplace=True",
    ),
    "lazy": Row(lambda: nn.Sequential(nn.LazyLinear(CLASSES)), "lazy layers", "run one batch"),
    "hidden behind a mask": Row(  # -1e9 must not set the scale of what is equal
        net(lambda m, x: torch.cat([m.l(functional.dropout(x)), 0 * x[:, :1] - 1e9], 1)),
        "two runs",
        "remove what is random",
    ),
    "batch size 3": Row(net(lambda m, x: m.l(x[:3].expand(3, -1))), "shape (3, 3)", WHOLE_OUTPUT),
    "reshape(3, -1)": Row(net(lambda m, x: m.l(x.reshape(3, -1))), "fails on an input", "without"),
    "len(x)": Row(net(lambda m, x: m.l(x.reshape(len(x), -1))), "on a batch of 2", BAKED),
    "int(shape)": Row(
        net(lambda m, x: m.l(x) + torch.zeros(int(x.shape[0]), 1)), "on a batch of 2", BAKED
    ),
    "branch on values": Row(
        net(lambda m, x: m.l(x) if x.mean() > 1e9 else m.l(x) * 2), "ONNX", "data-dependent"
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    row = REFUSED[name]
    with pytest.raises(ModelError) as caught:
        audit.export(
            row.model(),
            tmp_path / "bundle",
            input_shape=row.input_shape,
            raw_layout={1: None, 2: "CL", 3: "CHW"}[len(row.input_shape)],
            classes=row.classes,
        )
    message = str(caught.value)
    assert row.what in message
    assert row.how in message
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


class CausalEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(8, CLASSES)
        self.register_buffer("mask", torch.full((5, 5), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(x, mask=self.mask, is_causal=True)[:, -1])
        return logits


NOT_REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu'd logits, some at 0": (net(lambda m, x: m.l(x).relu()), (FEATURES,)),
    "logits in [0, 1]": (net(lambda m, x: m.l(x).sigmoid()), (FEATURES,)),
    "a mask of -inf": (CausalEncoder, (5, 8)),
}


@pytest.mark.parametrize("name", NOT_REFUSED)
def test_not_refused(name: str, tmp_path: Path) -> None:
    model, shape = NOT_REFUSED[name]
    bundle = audit.export(model(), tmp_path / "bundle", input_shape=shape)
    assert bundle.manifest.parity.top1_disagreements == 0


def test_in_place_behind_a_normalisation_is_harmless(tmp_path: Path) -> None:
    model = net(lambda m, x: m.l(x.sub_(0.5)))()
    audit.export(model, tmp_path / "bundle", input_shape=(FEATURES,), mean=0.25)


def test_training_mode_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(FEATURES, CLASSES)
    audit.export(model, tmp_path / "bundle", input_shape=(FEATURES,))
    (record,) = (each for each in caplog.records if each.name == "audit")
    assert record.levelname == "WARNING"
    assert "exported in evaluation mode" in record.getMessage()
    assert model.training
    caplog.clear()
    audit.export(model.eval(), tmp_path / "bundle", input_shape=(FEATURES,))
    assert not [each for each in caplog.records if each.name == "audit"]


class DetachesLater(nn.Module):
    """From call `first` on, the same forward pass without half of its gradient."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first
        self.calls = 0
        self.linear = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls >= self.first:
            x = torch.cat([x[:, :3], x[:, 3:].detach()], 1)
        logits: Tensor = self.linear(x)
        return logits


@pytest.mark.parametrize("first", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("execution", [profiling_execution, plain_execution])
def test_gradients_that_change_after_the_first_calls(first: int, execution: Any) -> None:
    torch.manual_seed(0)
    model = DetachesLater(first).double()
    x = torch.randn(8, FEATURES, dtype=torch.float64)
    with execution():
        scripted = torch.jit.script(model)
        if first > len(CALLS):
            check_same_gradients(scripted, model.linear, x, "TorchScript")
            assert scripted.calls == len(CALLS)
            return
        expected = f"TorchScript gives other gradients than the model in call {first}, on a batch"
        with pytest.raises(ModelError, match=expected):
            check_same_gradients(scripted, model.linear, x, "TorchScript")
    assert scripted.calls == first


@pytest.mark.parametrize(
    ("exported", "message"),
    [
        (lambda x: x[:, :3] * 2, "gives other logits than the model in call 1"),
        (lambda x: x[:, :3] + (x[:, 3:] * 1e3).sin() * 1e-8, "gives other gradients"),
        (lambda x: x[:, :3] + (x[:, 3:] * 0).sqrt(), "gives other gradients"),  # NaN
    ],
)
def test_another_function_is_caught(exported: Callable[[Tensor], Tensor], message: str) -> None:
    identity = net(lambda _, x: x[:, :3])().double()
    x = torch.randn(8, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ModelError, match=message):
        check_same_gradients(exported, identity, x, "TorchScript")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_export_leaves_the_model_as_it_was(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, CLASSES)
    ).to(dtype)
    model(torch.randn(8, FEATURES, dtype=dtype))[:, 0].sum().backward()
    model[0].bias.grad = None
    model[3].requires_grad_(False)
    model.train()
    model[1].eval()

    def everything() -> dict[str, Any]:
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {
            "training": {name: each.training for name, each in model.named_modules()},
            "kind": {
                name: f"{id(each)} {each.data_ptr()} {each.dtype} {each.requires_grad}"
                for name, each in tensors.items()
            },
            "values": {name: each.detach().clone() for name, each in tensors.items()},
            "grads": {name: copy.deepcopy(each.grad) for name, each in model.named_parameters()},
            "rng": torch.get_rng_state(),
            "global": (
                torch.is_grad_enabled(),
                str(torch.get_default_dtype()),
                torch.get_num_threads(),
                torch.backends.mha.get_fastpath_enabled(),
            ),
        }

    before = everything()
    assert any(before["training"].values())
    assert not all(before["training"].values())
    assert before["grads"]["0.weight"] is not None
    audit.export(model, tmp_path / "bundle", input_shape=(FEATURES,), pt2=True)
    after = everything()
    for part in ("training", "kind", "global"):
        assert after[part] == before[part]
    for part in ("values", "grads", "rng"):
        torch.testing.assert_close(after[part], before[part], rtol=0, atol=0)


class TooFine(nn.Module):
    """Cosines of large angles, which float32 is too coarse for."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.cos(1e5 * x))
        return logits


def test_float64_that_differs_from_float32_is_told_apart_from_the_exporters(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    with pytest.raises(ModelError, match=r"own logits in float32 and float64 differ.*dtype=x\.dt"):
        audit.export(TooFine(), tmp_path / "b", input_shape=(8,))


def test_data_that_float32_is_too_coarse_for(tmp_path: Path) -> None:
    """Time stamps of one hour: float32 knows steps of 128 seconds there."""
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(1.7e9, 600, (100, 4))
    data = write_dataset(tmp_path / "data.h5", x)
    model = nn.Linear(4, 3).eval()
    with pytest.raises(ModelError, match=r"rounding the data\.h5 samples to float32.*--offset"):
        audit.export(model, tmp_path / "b", input_shape=(4,), mean=1.7e9, std=600, parity_data=data)
    audit.export(model, tmp_path / "b", input_shape=(4,), offset=-1.7e9, std=600, parity_data=data)


def test_torchscript_has_no_way_to_onnx(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.jit is deprecated
        model = torch.jit.script(nn.Linear(4, 3).eval())
    with pytest.raises(ModelError, match="TorchScript already"):
        audit.export(model, tmp_path / "b", input_shape=(4,))
