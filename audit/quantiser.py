"""ONNX Runtime's static quantiser, and what it leaves to do.

Ranges of activations are found on calibration samples; weights have a scale for each output
channel. The logits themselves stay float32, and uint8 samples that go straight into a layer are
taken as the quantised values that they are.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from audit.errors import AuditError, ModelError, last_line
from audit.folding import MOVES
from audit.forward import INPUT, OUTPUT
from audit.onnx_graph import reads, rename_input

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# All activations of a batch are held at once: of so many samples, or fewer where they are large.
CALIBRATION_BATCH = 32
CALIBRATION_VALUES = 2**17
MAX_GROWTH = 16.0  # of the range, from the first batch to all
BINS = 2048  # of the histogram that a percentile is taken from


class Setting(NamedTuple):
    """One way to quantise.

    Attributes:
        method: How ranges of activations are found.
        reduce_range: Weights have 7 bits.
        float_first: The first layer stays float32.
        layers_only: Only layers with weights are quantised, not what is between them.
    """

    method: str
    reduce_range: bool = True
    float_first: bool = False
    layers_only: bool = False


class Quantiser:
    """ONNX Runtime's, on one graph from raw samples on: what settings share is computed once."""

    def __init__(self, graph: bytes, folder: Path, samples: NDArray[np.generic]) -> None:
        self._folder = folder
        self._samples = samples
        self._batch = max(1, min(CALIBRATION_BATCH, CALIBRATION_VALUES // samples[0].size))
        self._ranges: dict[str, _Ranges] = {}
        self._prepared = folder / "prepared.onnx"
        with _quantiser_errors():
            from onnxruntime.quantization.shape_inference import quant_pre_process

            # ONNX Runtime's own optimisation, of the kind that stays within ONNX's operators.
            given = folder / "given.onnx"
            given.write_bytes(graph)
            quant_pre_process(given, self._prepared, skip_symbolic_shape=True)
            self._model = onnx.load(self._prepared)
        constants = {each.name for each in self._model.graph.initializer}
        self.layers = [
            node.name
            for node in self._model.graph.node
            if node.op_type in LAYERS and node.input[1] in constants
        ]
        if not self.layers:
            raise ModelError(
                "the network has no convolution or linear layer with constant weights, which is "
                "what int8 is for; leave --int8 out"
            )

    def float_nodes(self, setting: Setting) -> list[str]:
        """Layers that stay in float32."""
        return self.layers[:1] if setting.float_first else []

    def graph(self, setting: Setting) -> bytes:
        """The quantised graph; raises ModelError."""
        with _quantiser_errors():
            from onnxruntime.quantization import QuantType, quantize_static

            ranges = self._ranges_by(setting.method)
            out = self._folder / "quantised.onnx"
            quantize_static(
                self._prepared,
                out,
                per_channel=True,
                reduce_range=setting.reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(LAYERS) if setting.layers_only else None,
                nodes_to_exclude=self.float_nodes(setting),
                calibrate_method=ranges.method,
                calibration_cache_path=ranges.path,
                extra_options={"TensorQuantOverrides": _exact_input(self._model.graph)},
            )
            model = onnx.load(out)
            _keep_logits(model.graph)
            _take_raw_as_quantised(model.graph)
            onnx.checker.check_model(model, full_check=True)
            data: bytes = model.SerializeToString()
            return data

    def _ranges_by(self, method: str) -> _Ranges:
        """Ranges of all activations, found once."""
        if method not in self._ranges:
            from onnxruntime.quantization import CalibrationMethod
            from onnxruntime.quantization.calibrate import save_tensors_data

            kind, options = {
                "minmax": (CalibrationMethod.MinMax, {}),
                "percentile": (CalibrationMethod.Percentile, {"num_bins": BINS}),
                "entropy": (CalibrationMethod.Entropy, {}),
            }[method]
            if method != "minmax":
                self._check_growth()
            path = self._folder / f"{method}.json"
            save_tensors_data(self._collected(kind, options, self._samples), path)
            self._ranges[method] = _Ranges(kind, path)
        return self._ranges[method]

    def _check_growth(self) -> None:
        """Histograms keep the bins of the first batch, and add such for whatever lies beyond."""
        from onnxruntime.quantization import CalibrationMethod

        first, every = (
            self._collected(CalibrationMethod.MinMax, {}, raw)
            for raw in (self._samples[: self._batch], self._samples)
        )
        for name in every.keys():  # noqa: SIM118, it isn't a mapping
            reach, start = (np.max(np.abs(each[name].range_value)) for each in (every, first))
            if reach > MAX_GROWTH * start:
                raise ModelError(
                    f"activations of the calibration samples reach from {start:.3g} to "
                    f"{reach:.3g}, too far for a histogram; leave --int8 out"
                )

    def _collected(self, kind: Any, options: dict[str, Any], raw: NDArray[np.generic]) -> Any:
        from onnxruntime.quantization.calibrate import create_calibrator

        calibrator = create_calibrator(
            self._prepared,
            augmented_model_path=str(self._folder / "augmented.onnx"),
            calibrate_method=kind,
            extra_options=options,
        )
        for start in range(0, len(raw), self._batch):
            calibrator.collect_data(_one_batch(raw[start : start + self._batch]))
        return calibrator.compute_data()


class _Ranges(NamedTuple):
    method: Any
    path: Path


def _one_batch(raw: NDArray[np.generic]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class OneBatch(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter([{INPUT: raw}])

        def get_next(self) -> dict[str, NDArray[np.generic]] | None:
            return next(self._batches, None)

    return OneBatch()


class _Path(NamedTuple):
    """From raw uint8 samples to the first node that computes with them.

    Attributes:
        cast: The node that makes them float32.
        end: The tensor that the computing node takes.
        node: That.
    """

    cast: Any
    end: str
    node: Any


def _path_of_samples(graph: Any) -> _Path | None:
    """None where the samples aren't uint8, or more than one node takes them."""
    (declared,) = graph.input
    if declared.type.tensor_type.elem_type != onnx.TensorProto.UINT8:
        return None
    name, cast = INPUT, None
    while True:
        readers = [node for node in graph.node if reads(node, name)]
        if len(readers) != 1 or readers[0].input[0] != name:
            return None
        (node,) = readers
        if node.op_type == "Cast":
            cast = node
        elif node.op_type not in MOVES:
            return _Path(cast, name, node) if cast is not None else None
        name = node.output[0]


def _exact_input(graph: Any) -> dict[str, Any]:
    """uint8 samples that go into the first layer as they are, are quantised: no range is needed."""
    from onnxruntime.quantization import QuantType

    path = _path_of_samples(graph)
    if path is None or path.node.op_type not in LAYERS:
        return {}
    one, zero = np.array(1, np.float32), np.array(0, np.uint8)
    return {path.end: [{"quant_type": QuantType.QUInt8, "scale": one, "zero_point": zero}]}


def _take_raw_as_quantised(graph: Any) -> None:
    """Leave out the way to float32 and back, where scale 1 and zero point 0 make it that."""
    path = _path_of_samples(graph)
    if path is None or path.node.op_type != "QuantizeLinear":
        return
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    if constants[path.node.input[1]] != 1 or constants[path.node.input[2]] != 0:
        return
    for node in graph.node:
        rename_input(node, path.cast.output[0], path.cast.input[0])
    end = path.cast.input[0] if path.end == path.cast.output[0] else path.end
    for node in graph.node:
        rename_input(node, path.node.output[0], end)
    graph.node.remove(path.cast)
    graph.node.remove(path.node)
    del graph.value_info[:]  # of float32 on the way


def _keep_logits(graph: Any) -> None:
    """Take quantisation off the logits: their steps would be most of the disagreement."""
    made_by = {name: node for node in graph.node for name in node.output}
    dequantise = made_by[OUTPUT]
    if dequantise.op_type != "DequantizeLinear":
        return
    quantise_node = made_by[dequantise.input[0]]
    logits = quantise_node.input[0]
    graph.node.remove(dequantise)
    graph.node.remove(quantise_node)
    for node in graph.node:
        rename_input(node, logits, OUTPUT)
    made_by[logits].output[list(made_by[logits].output).index(logits)] = OUTPUT


@contextlib.contextmanager
def _quantiser_errors() -> Iterator[None]:
    """The quantiser prints, warns and configures logging; what fails is a ModelError."""
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except AuditError:
        raise
    except Exception as exc:
        raise ModelError(
            f"ONNX Runtime can't quantise the network: {last_line(exc)}; leave --int8 out"
        ) from exc
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers
