"""Weights of every kind of file into a network, and files that are refused."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from audit.errors import ModelError
from audit.weights import load_weights

State = dict[str, Tensor]


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def prefixed(prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in network(1).state_dict().items()}


def lightning() -> dict[str, Any]:
    return {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed("model."),
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{}]}],
        "callbacks": {},
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1},
    }


def saved_on_a_gpu(path: Path) -> None:
    """What torch.save writes of tensors on cuda:0: the same file, but for the pickle's tags."""
    plain = path.with_suffix(".cpu")
    torch.save(prefixed(""), plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"X\x03\0\0\0cpu" in data
                data = data.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
            target.writestr(entry.filename, data)


GOOD: dict[str, Callable[[Path], Any]] = {
    "plain.safetensors": lambda path: save_file(prefixed(""), path),
    "parallel.safetensors": lambda path: save_file(prefixed("module."), path),
    "plain.pt": lambda path: torch.save(prefixed(""), path),
    "plain.pth": lambda path: torch.save(prefixed(""), path),
    "legacy.pt": lambda path: torch.save(prefixed(""), path, _use_new_zipfile_serialization=False),
    "nested.pt": lambda path: torch.save({"state_dict": prefixed(""), "epoch": 3}, path),
    "model_state_dict.pt": lambda path: torch.save({"model_state_dict": prefixed("")}, path),
    "lightning.ckpt": lambda path: torch.save(lightning(), path),
    "parallel.pt": lambda path: torch.save(prefixed("module."), path),
    "compiled-parallel.pt": lambda path: torch.save(prefixed("_orig_mod.module."), path),
    "gpu.pt": saved_on_a_gpu,
}


@pytest.mark.parametrize("name", GOOD)
def test_loaded(name: str, tmp_path: Path) -> None:
    GOOD[name](tmp_path / name)
    model = network(0)
    load_weights(model, tmp_path / name)
    torch.testing.assert_close(model.state_dict(), network(1).state_dict(), rtol=0, atol=0)
    assert {each.device.type for each in model.state_dict().values()} == {"cpu"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it loads without our help")
def test_the_gpu_file_needs_mapping(tmp_path: Path) -> None:
    saved_on_a_gpu(tmp_path / "gpu.pt")
    with pytest.raises(RuntimeError, match="Attempting to deserialize object on a CUDA device"):
        torch.load(tmp_path / "gpu.pt", weights_only=True)


def test_a_prefix_of_the_networks_own_stays(tmp_path: Path) -> None:
    model = nn.ModuleDict({"model": nn.Linear(3, 2)})
    torch.save({"model.weight": torch.ones(2, 3), "model.bias": torch.ones(2)}, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert model.get_parameter("model.weight").eq(1).all()


class Code:
    """Unpickled, it makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["torch", "legacy", "pickle"])
def test_code_is_not_run(kind: str, tmp_path: Path) -> None:
    weights, marker = tmp_path / "w.pt", tmp_path / "ran"
    document = {**prefixed(""), "code": Code(marker)}
    if kind == "pickle":
        weights.write_bytes(pickle.dumps(document))
    else:
        torch.save(document, weights, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(ModelError, match="could run code; save the weights alone"):
        load_weights(network(0), weights)
    assert not marker.exists()
    if kind == "pickle":
        pickle.loads(weights.read_bytes())
    else:
        torch.load(weights, weights_only=False)
    assert marker.exists()  # it was a real one


def changed(**entries: Tensor | None) -> State:
    document = {**prefixed(""), **{name.replace("_", "."): each for name, each in entries.items()}}
    return {name: each for name, each in document.items() if each is not None}


def truncated(path: Path) -> None:
    GOOD[f"plain{path.suffix}"](path)
    path.write_bytes(path.read_bytes()[:-100])


BAD: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "missing name": (
        "w.pt",
        lambda path: torch.save(changed(**{"0_bias": None}), path),
        "missing '0.bias'; unexpected none. Check that the factory builds the network",
    ),
    "unexpected name": (
        "w.safetensors",
        lambda path: save_file(changed(head=torch.ones(1)), path),
        "missing none; unexpected 'head'. Check",
    ),
    "another network": (
        "w.pt",
        lambda path: torch.save({"a": torch.ones(1)}, path),
        "'0.bias', '1.weight' and 6 more; unexpected 'a'",
    ),
    "misshaped": (
        "w.pt",
        lambda path: torch.save(changed(**{"0_weight": torch.ones(3, 4)}), path),
        "'0.weight' has shape (3, 4); the network has (4, 3)",
    ),
    "no file": ("w.pt", lambda path: None, "no such file; expected trained weights"),
    "folder": ("w.pt", lambda path: path.mkdir(), "no such file; expected trained weights"),
    "wrong suffix": (
        "w.h5",
        lambda path: path.touch(),
        "expected a file that ends in .safetensors, .pt, .pth, .ckpt",
    ),
    "truncated zip": ("w.pt", truncated, "not a file of weights that torch can read"),
    "truncated safetensors": ("w.safetensors", truncated, "not a safetensors file: "),
    "empty file": ("w.pth", lambda path: path.touch(), "not a file of weights"),
    "empty safetensors file": ("w.safetensors", lambda path: path.touch(), "not a safetensors"),
    "text": ("w.pt", lambda path: path.write_text("weights"), "is damaged, or"),
    "no tensors": ("w.safetensors", lambda path: save_file({}, path), "unexpected none"),
    "empty": ("w.pt", lambda path: torch.save({}, path), "expected a state dict"),
    "a tensor": ("w.pt", lambda path: torch.save(torch.ones(2), path), "holds Tensor; expected"),
    "numbered": (
        "w.pt",
        lambda path: torch.save({0: torch.ones(2)}, path),
        "expected a state dict of tensors, or one under state_dict, model_state_dict, model",
    ),
    "checkpoint without weights": (
        "w.ckpt",
        lambda path: torch.save({"epoch": 3, "a": torch.ones(2)}, path),
        "expected a state dict of tensors",
    ),
    "whole model": ("w.pt", lambda path: torch.save(network(1), path), "model.state_dict(), PATH"),
}


@pytest.mark.parametrize("row", BAD)
def test_refused(row: str, tmp_path: Path) -> None:
    name, write, message = BAD[row]
    write(tmp_path / name)
    model = network(0)
    with pytest.raises(ModelError) as caught:
        load_weights(model, tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert message in str(caught.value)
    torch.testing.assert_close(model.state_dict(), network(0).state_dict(), rtol=0, atol=0)


MEBIBYTE = 2**20


def rewritten(path: Path, change: Callable[[str, bytes], bytes], method: int) -> None:
    """The archive with other records."""
    GOOD["plain.pt"](path.with_suffix(".good"))
    with (
        zipfile.ZipFile(path.with_suffix(".good")) as source,
        zipfile.ZipFile(path, "w", method) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, change(entry.filename, source.read(entry)))


def inflating(path: Path) -> None:
    """A record of 256 MiB in less than one."""
    rewritten(
        path,
        lambda name, data: bytes(2**28) if name.endswith("data/0") else data,
        zipfile.ZIP_DEFLATED,
    )
    assert path.stat().st_size < MEBIBYTE


def patched(path: Path, entry: bytes, offset: int, value: bytes) -> None:
    """Other bytes in the last record of this kind."""
    GOOD["plain.pt"](path)
    data = bytearray(path.read_bytes())
    place = data.rindex(entry) + offset
    data[place : place + len(value)] = value
    path.write_bytes(data)


def overlapping(path: Path) -> None:
    """Every record of the list is the largest one."""
    GOOD["plain.pt"](path)
    with zipfile.ZipFile(path) as archive:
        offset, directory = archive.infolist()[0].header_offset, archive.start_dir
    data = bytearray(path.read_bytes())
    size = (directory - offset).to_bytes(4, "little")
    place = directory
    while data[place : place + 4] == b"PK\1\2":
        data[place + 20 : place + 28] = size * 2
        lengths = (data[place + at : place + at + 2] for at in (28, 30, 32))
        place += 46 + sum(int.from_bytes(each, "little") for each in lengths)
    path.write_bytes(data)


def commented(path: Path) -> None:
    GOOD["plain.pt"](path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"another list of records"


BOMBS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "inflating": (inflating, "its records are compressed, or claim more bytes than the file has"),
    "claimed size": (
        lambda path: patched(path, b"PK\1\2", 20, b"\xf0\xff\xff\x7f" * 2),
        "its records are compressed, or claim more bytes than the file has",
    ),
    "overlapping": (overlapping, "its records are compressed, or claim more bytes than the file"),
    "commented": (commented, "its records are compressed, or claim more bytes than the file has"),
    "not a list": (
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
        "not a file of weights that torch can read",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_archives_that_claim_more_than_they_have(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, (write, message) = tmp_path / "w.pt", BOMBS[name]
    write(path)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("torch was asked"))
    with pytest.raises(ModelError) as caught:
        load_weights(network(0), path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def claiming(path: Path, change: Callable[[str], str]) -> None:
    """A safetensors file with another header."""
    save_file(prefixed(""), path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = change(data[8 : 8 + size].decode()).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])


def entry(path: Path, **changes: Any) -> None:
    def change(text: str) -> str:
        document = json.loads(text)
        document["0.weight"].update(changes)
        return json.dumps(document)

    claiming(path, change)


SAFETENSORS: dict[str, Callable[[Path], Any]] = {
    "header of an exabyte": lambda path: path.write_bytes((2**60).to_bytes(8, "little") + b"{}"),
    "header of 99 MB that isn't there": lambda path: path.write_bytes(
        (99_000_000).to_bytes(8, "little") + b"{}"
    ),
    "header of 101 MB": lambda path: claiming(path, lambda text: text + " " * 101_000_000),
    "deep header": lambda path: claiming(path, lambda text: '{"a":' * 100_000),
    "not JSON": lambda path: claiming(path, lambda text: text.replace("}", "")),
    "claimed shape": lambda path: entry(path, shape=[2**31, 2**31]),
    "overflowing shape": lambda path: entry(path, shape=[2**63, 2**63]),
    "beyond the end": lambda path: entry(path, data_offsets=[0, 2**40], shape=[2**38]),
    "overlapping": lambda path: entry(path, data_offsets=[0, 32], shape=[8]),
    "backwards": lambda path: entry(path, data_offsets=[48, 0]),
    "negative": lambda path: entry(path, data_offsets=[-48, 0]),
    "unknown dtype": lambda path: entry(path, dtype="object"),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_headers_that_claim_what_isnt_there(name: str, tmp_path: Path) -> None:
    """The library checks: here that it does, and that its error becomes ours."""
    path = tmp_path / "w.safetensors"
    SAFETENSORS[name](path)
    with pytest.raises(ModelError, match="not a safetensors file: "):
        load_weights(network(0), path)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes_end_in_one_error(zipped: bool, tmp_path: Path) -> None:
    """Damage in the values alone can't be seen; any other is a ModelError and nothing else."""
    path = tmp_path / "w.pt"
    torch.save(prefixed(""), path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(300):
        place, value = (int(torch.randint(n, (), generator=generator)) for n in (1024, 256))
        path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
        try:
            load_weights(network(0), path)
        except ModelError:
            refused += 1
    for length in range(0, len(data), len(data) // 50):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError):
            load_weights(network(0), path)
    assert refused > 50
