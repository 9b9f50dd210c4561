"""Changes to an ONNX graph that more than one module makes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper


def add_constant(graph: Any, name: str, values: NDArray[Any]) -> str:
    """Add an initializer of that name or a similar one; its name."""
    name = unused_name(graph, name)
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return name


def unused_name(graph: Any, name: str) -> str:
    """That name, or a similar one that no tensor has."""
    taken = {each.name for each in (*graph.initializer, *graph.input, *graph.value_info)}
    taken |= {each for node in graph.node for each in (*read_names(node), *node.output)}
    while name in taken:
        name += "_"
    return name


def drop_unused(graph: Any) -> None:
    """Remove initializers that nothing reads."""
    used = {name for node in graph.node for name in read_names(node)}
    used |= {each.name for each in graph.output}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def reads(node: Any, name: str) -> bool:
    """Whether a node, or a subgraph of it, takes this tensor."""
    return name in read_names(node)


def read_names(node: Any) -> set[str]:
    """Names of the tensors that a node takes, those that its subgraphs take included."""
    names = set(node.input)
    for graph in _subgraphs(node):
        names |= {name for inner in graph.node for name in read_names(inner)}
        names |= {each.name for each in graph.output}
    return names


def rename_input(node: Any, old: str, new: str) -> None:
    """Let a node, and its subgraphs, take another tensor."""
    for place, name in enumerate(node.input):
        if name == old:
            node.input[place] = new
    for graph in _subgraphs(node):
        for inner in graph.node:
            rename_input(inner, old, new)


def rename_tensor(graph: Any, old: str, new: str) -> None:
    """Give a tensor, where there is one of that name, another."""
    for each in (*graph.initializer, *graph.value_info):
        if each.name == old:
            each.name = new
    for node in graph.node:
        rename_input(node, old, new)
        for place, name in enumerate(node.output):
            if name == old:
                node.output[place] = new


def _subgraphs(node: Any) -> list[Any]:
    found = []
    for attribute in node.attribute:
        found += [attribute.g] if attribute.HasField("g") else []
        found += attribute.graphs
    return found
