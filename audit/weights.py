"""Trained weights into a network, without unpickling anything but tensors."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audit.errors import ModelError

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")
# What training code wraps around a network, and so puts before the names of its parameters.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
NESTED_KEYS = ("state_dict", "model_state_dict", "model")
SHOWN_NAMES = 3
ZIP = b"PK\x03\x04"  # by which torch.load tells its two formats apart


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a `.safetensors`, a state dict (`.pt`, `.pth`) or a Lightning `.ckpt` into `model`.

    Raises:
        ModelError: There is no such file, it holds more than tensors, or it doesn't fit.
    """
    weights = _without_prefix(_read(Path(path)), model)
    expected = model.state_dict()
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    if missing or unexpected:
        raise ModelError(
            f"{path}: doesn't fit the network; missing {_listed(missing)}; unexpected "
            f"{_listed(unexpected)}. Check that the factory builds the network that was trained"
        )
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise ModelError(
                f"{path}: {name!r} has shape {tuple(value.shape)}; the network has "
                f"{tuple(expected[name].shape)}"
            )
    model.load_state_dict(weights)


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix not in SUFFIXES:
        raise ModelError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
    if not os.path.isfile(path):
        raise ModelError(f"{path}: no such file; expected trained weights")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as exc:
            raise ModelError(f"{path}: not a safetensors file: {exc}") from exc
    _check_archive(path)
    try:
        with warnings.catch_warnings():  # of pickles that torch didn't write; they are refused
            warnings.simplefilter("ignore")
            document = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise ModelError(
            f"{path}: is damaged, or holds more than tensors, and loading that could run code; "
            "save the weights alone: torch.save(model.state_dict(), PATH), or safetensors"
        ) from exc
    except Exception as exc:  # of damaged bytes torch's reader raises nearly anything
        raise ModelError(f"{path}: not a file of weights that torch can read") from exc
    return _state_dict(path, document)


def _check_archive(path: Path) -> None:
    """Refuse a zip file whose records claim, or inflate to, more than the file has.

    torch stores records as they are, and its reader finds the list of records where Python's does:
    by the file's last bytes, where no comment follows them.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(ZIP)) != ZIP:
                return  # torch's older format, which isn't compressed
        with zipfile.ZipFile(path) as archive:
            records, comment = archive.infolist(), archive.comment
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as exc:
        raise ModelError(f"{path}: not a file of weights that torch can read") from exc
    stored = all(each.compress_type == zipfile.ZIP_STORED for each in records)
    claimed = sum(max(each.file_size, each.compress_size) for each in records)
    if comment or not stored or claimed > path.stat().st_size:
        raise ModelError(
            f"{path}: not written by torch.save: its records are compressed, or claim more bytes "
            "than the file has; save the weights again, as safetensors for one"
        )


def _state_dict(path: Path, document: Any) -> Mapping[str, Tensor]:
    for key in NESTED_KEYS:
        if isinstance(document, dict) and isinstance(document.get(key), dict):
            document = document[key]
            break
    if not isinstance(document, dict) or not document:
        raise ModelError(f"{path}: holds {type(document).__name__}; expected a state dict")
    weights = {name: value for name, value in document.items() if isinstance(value, Tensor)}
    if len(weights) != len(document) or not all(isinstance(name, str) for name in weights):
        raise ModelError(
            f"{path}: expected a state dict of tensors, or one under {', '.join(NESTED_KEYS)}"
        )
    return weights


def _without_prefix(weights: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """Strip wrappers' prefixes where none of the names is the network's own.

    What has another prefix is left out where the rest is all that the network needs: a training
    module keeps the weights of its loss beside the network.
    """
    expected = set(model.state_dict())
    while weights and not expected & set(weights):
        for prefix in PREFIXES:
            inner = {
                name.removeprefix(prefix): value
                for name, value in weights.items()
                if name.startswith(prefix)
            }
            if inner and (len(inner) == len(weights) or expected <= set(inner)):
                weights = inner
                break
        else:
            break
    return weights


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN_NAMES])) or "none"
    return f"{shown} and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else shown
