"""What an ONNX file may hold, read off its bytes before ONNX Runtime parses them.

A bundle may come from a stranger. `audit export` writes one flat graph of ONNX's own operators with
its weights inside, so that nothing else needs to be let in: no other file, no other domain's
operators, no function or subgraph, and with these no loop, no recursion and no deep nesting.

The file is walked as protobuf's wire format: fields of interest are entered, all others are passed
over, at a cost by their number and not by their bytes. Where protobuf would take the last of
several values, or ignore one of another type, every value is judged and any other type is refused,
so that nothing passes that another parser would read differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from audit.errors import BundleError

# Strings are the one kind of tensor whose values grow where no allocator counts them.
TEXT_OPERATORS = (
    b"RegexFullMatch",
    b"StringConcat",
    b"StringNormalizer",
    b"StringSplit",
    b"TfIdfVectorizer",
)
# Wire type, value of a varint, content → what is wrong with the field.
Judge = Callable[[int, int, bytes], str | None]
DOMAINS = (b"", b"ai.onnx")
MAX_FIELDS = 2**20  # a network of 10,000 convolutions has a third of that
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED_SIZES = {FIXED64: 8, FIXED32: 4}


def check_onnx(model: bytes, source: str) -> None:
    """Refuse what no exported graph holds; that the rest is ONNX is for ONNX Runtime to say.

    Args:
        model: The ONNX file.
        source: Where it came from, for messages.

    Raises:
        BundleError: It isn't protobuf, or holds what only a hostile file needs.
    """
    try:
        problem = _problem(model)
    except (IndexError, ValueError) as exc:
        raise BundleError(f"{source}: not an ONNX file; export the model again") from exc
    if problem is not None:
        raise BundleError(
            f"{source}: has {problem}, which no exported network needs; don't trust this bundle, "
            "and export the model again with 'audit export'"
        )


def _problem(model: bytes) -> str | None:
    """The first thing that is refused; raises IndexError or ValueError where it isn't protobuf."""
    messages = [("model", 0, len(model))]
    fields = 0
    while messages:
        message, start, end = messages.pop()
        entered, judged = ENTERED[message], JUDGED[message]
        for number, kind, value, first, last in _fields(model, start, end):
            fields += 1
            if fields > MAX_FIELDS:
                return f"more than {MAX_FIELDS:,} parts"
            if number in entered:
                _check_bytes(kind)
                messages.append((entered[number], first, last))
            elif number in judged:
                problem = judged[number](kind, value, model[first:last])
                if problem is not None:
                    return problem
    return None


def _fields(model: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Fields of model[start:end]: number, wire type, value of a varint, where content is."""
    while start < end:
        tag, start = _varint(model, start)
        number, kind = tag >> 3, tag & 7
        value, after = 0, start
        if kind == BYTES:
            size, start = _varint(model, start)
            after = start + size
        elif kind == VARINT:
            value, after = _varint(model, start)
        elif kind in FIXED_SIZES:
            after = start + FIXED_SIZES[kind]
        else:
            raise ValueError(f"wire type {kind}")
        if after > end or number == 0 or tag >= 2**32:
            raise ValueError("a field beyond its message, or without a number")
        yield number, kind, value, start, after
        start = after


def _varint(model: bytes, start: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and where it ends."""
    value = model[start]
    if value < 128:
        return value, start + 1
    value &= 127
    for place in range(1, 10):
        byte = model[start + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, start + place + 1
    raise ValueError("a number of more than 10 bytes")


def _check_bytes(kind: int) -> None:
    if kind != BYTES:
        raise ValueError(f"wire type {kind}")


def _always(problem: str) -> Judge:
    return lambda kind, value, content: problem


def _judge_operator(kind: int, value: int, content: bytes) -> str | None:
    _check_bytes(kind)
    return f"the operator {content.decode()}" if content in TEXT_OPERATORS else None


def _judge_domain(kind: int, value: int, content: bytes) -> str | None:
    _check_bytes(kind)
    return None if content in DOMAINS else f"operators of the domain {content.decode()!r}"


def _judge_data_location(kind: int, value: int, content: bytes) -> str | None:
    return None if kind == VARINT and value == 0 else "external data"


# Of protobuf's messages `ModelProto`, `GraphProto`, …, by the fields' numbers: what is entered,
# and what is looked at. https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
ENTERED: dict[str, dict[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor"},
    "tensor": {},
}
# A sparse tensor claims what a dense one would have to hold.
JUDGED: dict[str, dict[int, Judge]] = {
    "model": {20: _always("training information"), 25: _always("functions")},
    "graph": {15: _always("sparse tensors")},
    "node": {4: _judge_operator, 7: _judge_domain},
    "attribute": {
        6: _always("control flow"),
        11: _always("control flow"),
        22: _always("sparse tensors"),
        23: _always("sparse tensors"),
    },
    "tensor": {13: _always("external data"), 14: _judge_data_location},
}
