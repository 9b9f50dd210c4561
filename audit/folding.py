"""Preprocessing in front of a network's ONNX graph: plain, or folded into its first layer.

Network input is ((raw · scale + offset) - mean) / std. Plain, each is a pass over the samples and
rounds as the canonical path does. Folded, it is (raw - centre) · factor, and where the first layer
is linear, its weights take the factor and its bias the centre:

    W · ((r - c) · k) + b  =  (W · k) · r + (b - (W · k) · c)

Zeros that a convolution pads with are zeros of the network's input: there, only r - c has them in
the right place, and one subtraction stays.

Folded is exact on paper. In float32 it is off by rounding of the raw values' size, where plain
subtracts first: of data whose mean is far larger than its spread, digits are lost. Which of the
two is used is for `audit.parity` to measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator
from onnx.utils import Extractor

from audit.forward import INPUT
from audit.graphs import NETWORK_INPUT
from audit.onnx_graph import (
    add_constant,
    drop_unused,
    reads,
    rename_input,
    rename_tensor,
    unused_name,
)
from audit.preprocess import Preprocess

# What changes the place of values, not the values.
MOVES = ("Reshape", "Flatten", "Transpose", "Identity", "Squeeze", "Unsqueeze")
UNPADDED = (b"", b"NOTSET", b"VALID")


class Affine(NamedTuple):
    """Network input is (raw - centre) · factor; both float64, one number a channel or one."""

    centre: NDArray[np.float64]
    factor: NDArray[np.float64]


class FirstLayer(NamedTuple):
    """The one node that sees the network's input, and what it sees.

    Attributes:
        node: A Gemm, MatMul or Conv with constant weights.
        weights: Those, float64.
        seen: The affine map in the shape that the node sees, (1, …) each.
    """

    node: Any
    weights: NDArray[np.float64]
    seen: Affine


class RawGraphs(NamedTuple):
    """Two graphs from raw samples to logits, of which `folded` may not exist."""

    plain: bytes
    folded: bytes | None


def raw_graphs(network: bytes, preprocess: Preprocess) -> RawGraphs:
    """The network's graph with its preprocessing in front, plain and folded."""
    return RawGraphs(plain_graph(network, preprocess), folded_graph(network, preprocess))


def plain_graph(network: bytes, preprocess: Preprocess) -> bytes:
    """The graph from raw samples on, every step of the preprocessing as it is written.

    Args:
        network: ONNX of the network alone: its input is `NETWORK_INPUT`, float32 (N, *input_shape).
        preprocess: What comes before it.
    """
    model = onnx.load_from_string(network)
    p = preprocess
    rank = len(p.input_shape)
    mean, std = (_per_channel(values, rank) for values in (p.mean, p.std))
    # float64 data is scaled in its own precision: an offset may cancel its leading digits.
    scaling = "float64" if p.raw_dtype == "float64" else "float32"
    steps = [
        ("Mul", np.asarray(p.scale, scaling), p.scale == 1.0),
        ("Add", np.asarray(p.offset, scaling), p.offset == 0.0),
        ("Sub", mean.astype(np.float32), not mean.any()),
        ("Div", std.astype(np.float32), bool((std == 1.0).all())),
    ]
    chain = _Chain(model)
    chain.lay_out(p)
    chain.cast(scaling)
    for operator, operand, idle in steps:
        if operator == "Sub":
            chain.cast("float32")
        if not idle:
            chain.apply(operator, operand)
    return chain.joined()


def folded_graph(network: bytes, preprocess: Preprocess) -> bytes | None:
    """As `plain_graph`, with as few steps as there can be; None where there is no such graph.

    float64 data keeps its own precision, and where input space overflows for finite raw values,
    the plain graph's infinities say so.
    """
    p = preprocess
    if p.raw_dtype == "float64" or _may_overflow(p):
        return None
    model = shape_inference.infer_shapes(onnx.load_from_string(network))
    affine = affine_of(p)
    layer = _first_layer(model, affine, p.input_shape)
    rest = affine if layer is None else _fold(model, layer, affine)
    chain = _Chain(model)
    chain.lay_out(p)
    chain.cast("float32")
    if rest.centre.any():
        chain.apply("Sub", _rounded(rest.centre))
    if (rest.factor != 1.0).any():
        chain.apply("Mul", _rounded(rest.factor))
    return chain.joined()


def affine_of(preprocess: Preprocess) -> Affine:
    """Scale, offset, mean and std as one map, in the shape (C or 1, 1, …) of a sample."""
    p = preprocess
    rank = len(p.input_shape)
    mean, std = (_per_channel(values, rank) for values in (p.mean, p.std))
    return Affine((mean - p.offset) / p.scale, p.scale / std)


def _per_channel(values: Sequence[float], rank: int) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64).reshape(-1, *(1,) * (rank - 1))


def _may_overflow(preprocess: Preprocess) -> bool:
    """Whether a finite raw value may be infinite in input space."""
    largest = 255.0 if preprocess.raw_dtype == "uint8" else np.finfo(preprocess.raw_dtype).max
    with np.errstate(over="ignore"):
        reach = np.float32(float(largest) * abs(preprocess.scale) + abs(preprocess.offset))
    return not np.isfinite(reach)


class _Chain:
    """Nodes from the graph's input to what the network took for it, put in front at the end."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._graph = model.graph
        self._nodes: list[Any] = []
        self._end = INPUT
        self._dtype = "float32"

    def lay_out(self, preprocess: Preprocess) -> None:
        """Take raw samples, and bring their axes into the network's order: the smallest dtype."""
        p = preprocess
        self._dtype = p.raw_dtype
        (declared,) = self._graph.input
        batch = declared.type.tensor_type.shape.dim[0].dim_param
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(p.raw_dtype))
        rename_tensor(self._graph, INPUT, unused_name(self._graph, INPUT))  # a parameter's, if any
        declared.CopyFrom(helper.make_tensor_value_info(INPUT, kind, [batch, *p.raw_shape]))
        if p.axes != tuple(sorted(p.axes)):
            self._append("Transpose", perm=[0, *(axis + 1 for axis in p.axes)])
        if tuple(p.raw_shape[axis] for axis in p.axes) != p.input_shape:
            self._append("Reshape", np.array([0, *p.input_shape], np.int64))

    def cast(self, dtype: str) -> None:
        """To another dtype, where it is another."""
        if dtype != self._dtype:
            self._append("Cast", to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        self._dtype = dtype

    def apply(self, operator: str, operand: NDArray[Any]) -> None:
        """`operator` with a constant."""
        self._append(operator, operand)

    def joined(self) -> bytes:
        """The checked graph."""
        nodes = list(self._graph.node)
        for node in nodes:
            rename_input(node, NETWORK_INPUT, self._end)
        del self._graph.node[:]
        self._graph.node.extend([*self._nodes, *nodes])
        onnx.checker.check_model(self._model, full_check=True)
        data: bytes = self._model.SerializeToString()
        return data

    def _append(
        self, operator: str, operand: NDArray[Any] | None = None, **attributes: Any
    ) -> None:
        inputs = [self._end]
        if operand is not None:
            inputs.append(add_constant(self._graph, f"preprocess_{operator.lower()}", operand))
        self._end = unused_name(self._graph, f"preprocessed_{len(self._nodes)}")
        name = f"preprocess_{len(self._nodes)}_{operator.lower()}"
        self._nodes.append(helper.make_node(operator, inputs, [self._end], name=name, **attributes))


def _first_layer(model: Any, affine: Affine, input_shape: tuple[int, ...]) -> FirstLayer | None:
    """What the network's input goes into, where that is one linear layer and nothing else."""
    graph = model.graph
    constants = {each.name: each for each in graph.initializer}
    name = NETWORK_INPUT
    while True:
        # That a node asks for the shape changes nothing.
        consumers = [node for node in graph.node if reads(node, name) and node.op_type != "Shape"]
        if len(consumers) != 1 or list(consumers[0].input).count(name) != 1:
            return None
        (node,) = consumers
        if node.input[0] != name:
            return None
        if node.op_type not in MOVES:
            break
        name = node.output[0]
    if node.op_type not in FOLDS or node.input[1] not in constants:
        return None
    if not all(each in constants for each in node.input[2:] if each):
        return None
    shaped = (np.broadcast_to(each, (1, *input_shape)) for each in affine)
    seen = Affine(*(_moved(model, each, name) for each in shaped))
    if seen.centre.shape[0] != 1:  # part of a sample has become part of the batch
        return None
    weights = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
    return FirstLayer(node, weights, seen)


def _moved(model: Any, values: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """Values (1, *input_shape) of the network's input as they arrive in that tensor."""
    if name == NETWORK_INPUT:
        return values
    part = Extractor(model).extract_model([NETWORK_INPUT], [name])
    (moved,) = ReferenceEvaluator(part).run(None, {NETWORK_INPUT: values})
    return np.asarray(moved)


def _fold(model: Any, layer: FirstLayer, affine: Affine) -> Affine:
    """Change the layer's constants; what is left to do before the network."""
    rest = FOLDS[layer.node.op_type](model.graph, layer, affine)
    drop_unused(model.graph)
    return rest


def _fold_gemm(graph: Any, layer: FirstLayer, affine: Affine) -> Affine:
    node = layer.node
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    centre, factor = (each.reshape(-1) for each in layer.seen)
    by_output = layer.weights if given.get("transB", 0) else layer.weights.T
    weights = _rounded(by_output * factor)
    # From the weights as rounded, so that their error meets r - c, not r.
    shift = weights.astype(np.float64) @ centre * given.get("alpha", 1.0)
    bias = given.get("beta", 1.0) * _bias(graph, node) - shift
    del node.attribute[:]
    for name, value in {**given, "beta": 1.0, "transB": 1}.items():
        node.attribute.append(helper.make_attribute(name, value))
    _set_constants(graph, node, weights, bias)
    return _nothing(affine)


def _fold_matmul(graph: Any, layer: FirstLayer, affine: Affine) -> Affine:
    node = layer.node
    rank = layer.seen.centre.ndim
    if layer.weights.ndim != 2 or not _varies_along(rank - 1, layer.seen):
        return affine
    centre, factor = (each.reshape(-1, each.shape[-1])[0] for each in layer.seen)
    weights = _rounded(layer.weights.T * factor).T
    shift = centre @ weights.astype(np.float64)
    _set_constants(graph, node, weights, None)
    if not shift.any():
        return _nothing(affine)
    # The bias of a linear layer over more than two axes is a node of its own.
    product = node.output[0]
    readers = [each for each in graph.node if reads(each, product)]
    constants = {each.name: each for each in graph.initializer}
    outputs = {each.name for each in graph.output}
    if len(readers) == 1 and readers[0].op_type == "Add" and product not in outputs:
        for place, name in enumerate(readers[0].input):
            if name in constants:
                bias = numpy_helper.to_array(constants[name]).astype(np.float64) - shift
                readers[0].input[place] = add_constant(graph, f"{name}_folded", _rounded(bias))
                return _nothing(affine)
    node.output[0] = unused_name(graph, f"{product}_unshifted")
    added = helper.make_node(
        "Sub",
        [node.output[0], add_constant(graph, f"{product}_shift", _rounded(shift))],
        [product],
    )
    graph.node.insert(list(graph.node).index(node) + 1, added)
    return _nothing(affine)


def _fold_conv(graph: Any, layer: FirstLayer, affine: Affine) -> Affine:
    node = layer.node
    if not _varies_along(1, layer.seen):
        return affine
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    outputs, channels = layer.weights.shape[:2]
    groups = given.get("group", 1)
    # For each output channel, those of its group's inputs: (outputs, channels of a group)
    centre, factor = (
        np.repeat(
            each.reshape(each.shape[1], -1)[:, 0].reshape(groups, channels), outputs // groups, 0
        )
        for each in layer.seen
    )
    spatial = (1,) * (layer.weights.ndim - 2)
    weights = _rounded(layer.weights * factor.reshape(outputs, channels, *spatial))
    padded = any(given.get("pads", ())) or given.get("auto_pad", b"") not in UNPADDED
    if padded:
        _set_constants(graph, node, weights, None)
        return Affine(affine.centre, np.ones_like(affine.factor))
    sums = weights.astype(np.float64).reshape(outputs, channels, -1).sum(2)
    _set_constants(graph, node, weights, _bias(graph, node) - (sums * centre).sum(1))
    return _nothing(affine)


FOLDS = {"Gemm": _fold_gemm, "MatMul": _fold_matmul, "Conv": _fold_conv}


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float32]:
    # What overflows makes logits that are not finite, and such a graph isn't used.
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _nothing(affine: Affine) -> Affine:
    return Affine(np.zeros_like(affine.centre), np.ones_like(affine.factor))


def _varies_along(axis: int, seen: Affine) -> bool:
    """Whether the map is one for all places along every other axis."""
    return all(
        bool((each == each.take([0], other)).all())
        for each in seen
        for other in range(each.ndim)
        if other != axis
    )


def _bias(graph: Any, node: Any) -> NDArray[np.float64]:
    """Third input of a Gemm or Conv; 0 where there is none."""
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(())
    (found,) = (each for each in graph.initializer if each.name == node.input[2])
    return np.asarray(numpy_helper.to_array(found), dtype=np.float64)


def _set_constants(
    graph: Any, node: Any, weights: NDArray[np.floating], bias: NDArray[np.float64] | None
) -> None:
    """New constants beside the old: another layer may share those."""
    names = [node.input[0], add_constant(graph, f"{node.input[1]}_folded", weights)]
    if bias is None:
        names += node.input[2:]
    else:
        names.append(add_constant(graph, f"{node.input[1]}_folded_bias", _rounded(bias)))
    del node.input[:]
    node.input.extend(names)
