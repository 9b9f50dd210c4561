"""The fast path: raw batches through the ONNX graph, by ONNX Runtime."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.errors import BundleError, DeviceError, InstallationError
from audit.onnx_check import check_onnx

INPUT, OUTPUT = "raw", "logits"
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# TF32 rounds to 10 bits, which the guard would have to make up for; the algorithm is looked up
# instead of timed, which every new batch size would start anew.
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
FATAL_ONLY = 4  # what ONNX Runtime would log is raised as an error as well
# A few bytes can describe tensors of any size. Those that are computed from constants alone ONNX
# Runtime would compute while it loads, and those of a batch are held to a share of the memory.
FOLDED_BYTES = 2**24
FOLDED_OF_MODEL = 4  # int8 weights become float32
SHARE_OF_MEMORY = 0.75


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, from exactly one of the distributions that provide it.

    Raises:
        InstallationError: None or both are installed.
    """
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) == 2:
        raise InstallationError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install 'near-tie-audit[cpu]' or "
            "'near-tie-audit[gpu]'"
        )
    # From 1.29 on, its builds for Linux and macOS tell Microsoft of each process and model; they
    # keep that in the user's cache until they can. Who has set the variable has chosen.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as exc:
        raise InstallationError(
            "ONNX Runtime is not installed: pip install 'near-tie-audit[cpu]', or "
            "'near-tie-audit[gpu]' on a machine with an NVIDIA GPU"
        ) from exc
    return onnxruntime


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def available_threads() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Forward:
    """One ONNX Runtime session on one device; may be called from several threads at once.

    The model is handed over as bytes: without a path, ONNX Runtime refuses external data, so a
    graph can't read another file.
    """

    def __init__(self, model: bytes, *, device: str, threads: int, source: str) -> None:
        """Start the session.

        Args:
            model: The ONNX file.
            device: cpu, cuda or tensorrt.
            threads: Threads within an operator.
            source: Where the model came from, for messages.

        Raises:
            BundleError: It isn't a model that ONNX Runtime can run, it has another interface, or
                it is refused: see `audit.onnx_check`.
            DeviceError: The device can't be had.
            InstallationError: ONNX Runtime isn't installed, or twice.
        """
        check_onnx(model, source)
        onnxruntime = import_onnxruntime()
        provider = PROVIDERS[device]
        if device != "cpu":
            onnxruntime.preload_dlls()  # CUDA's libraries come with torch
        if provider not in onnxruntime.get_available_providers():
            raise DeviceError(
                f"--device {device}: this ONNX Runtime has no {provider}; install "
                "'near-tie-audit[gpu]', or use --device cpu"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = FATAL_ONLY
        # Threads that spin while torch computes in the same process halve the speed of both.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # By itself it takes for its own format, which isn't checked, what looks like it.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        options.add_session_config_entry(
            "optimization.constant_folding_max_output_size_in_bytes",
            str(FOLDED_BYTES + FOLDED_OF_MODEL * len(model)),
        )
        if device == "cpu":
            _bound_memory(onnxruntime, options)
        try:
            self.session = onnxruntime.InferenceSession(
                model, options, providers=_providers(device)
            )
        except Exception as exc:
            if device != "cpu":
                raise DeviceError(f"--device {device}: {exc}") from exc
            raise BundleError(f"{source}: ONNX Runtime can't run it: {_line(exc)}") from exc
        if self.session.get_providers()[0] != provider:
            raise DeviceError(
                f"--device {device}: ONNX Runtime couldn't load {provider} and would run on "
                f"{self.session.get_providers()[0]}; check the driver and CUDA libraries, or use "
                "--device cpu"
            )
        names = [each.name for each in self.session.get_inputs()]
        outputs = [each.name for each in self.session.get_outputs()]
        if names != [INPUT] or outputs != [OUTPUT]:
            raise BundleError(
                f"{source}: inputs {names} and outputs {outputs}; expected {INPUT!r} and {OUTPUT!r}"
            )
        self._source = source
        self.version = {"onnxruntime": str(onnxruntime.__version__)}

    def logits(self, raw: NDArray[np.generic]) -> NDArray[np.float32]:
        """Logits (N, C) float32 of a raw batch (N, *raw_shape).

        Raises:
            BundleError: The graph fails on data that its manifest describes.
        """
        with self.failures_mapped():
            (logits,) = self.session.run([OUTPUT], {INPUT: raw})
        return np.asarray(logits, dtype=np.float32)

    @contextmanager
    def failures_mapped(self) -> Iterator[None]:
        """What ONNX Runtime raises in here is the bundle's fault."""
        try:
            yield
        except Exception as exc:
            raise BundleError(f"{self._source}: ONNX Runtime failed: {_line(exc)}") from exc


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split())


def _bound_memory(onnxruntime: Any, options: Any) -> None:
    """Let the next session take its tensors from an allocator of its own that has a limit."""
    memory = int(SHARE_OF_MEMORY * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    # ONNX Runtime 1.20 refuses a second allocator, and sessions then share the first.
    with suppress(RuntimeError):
        onnxruntime.create_and_register_allocator(
            onnxruntime.OrtMemoryInfo(
                "Cpu",
                onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
                0,
                onnxruntime.OrtMemType.DEFAULT,
            ),
            onnxruntime.OrtArenaCfg({"max_mem": memory}),
        )
    options.add_session_config_entry("session.use_env_allocators", "1")


def _providers(device: str) -> list[Any]:
    cuda = (PROVIDERS["cuda"], CUDA_OPTIONS)
    if device == "tensorrt":
        # What TensorRT can't take runs in CUDA. It has no option for TF32.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        return [PROVIDERS[device], cuda]
    return [cuda] if device == "cuda" else [PROVIDERS[device]]
