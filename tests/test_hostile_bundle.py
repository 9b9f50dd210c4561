"""Bundles that a stranger made to do harm: each is one error, and nothing of it is done."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

import audit
import audit.bundle
from audit import onnx_check
from audit.bundle import MANIFEST, ONNX, TORCHSCRIPT, Bundle, load_bundle
from audit.errors import BundleError
from audit.forward import INPUT, OUTPUT, Forward
from audit.onnx_check import check_onnx
from conftest import Run
from oracles import with_onnx

FLOAT = TensorProto.FLOAT


def int64(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def model_of(nodes: list[Any], *constants: TensorProto, **more: Any) -> Any:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(INPUT, FLOAT, ["N", 4])],
        [helper.make_tensor_value_info(OUTPUT, FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], **more)


def refusal(model: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        Forward(model, device="cpu", threads=1, source=ONNX)
    message = str(caught.value)
    assert message.startswith(f"{ONNX}: ")
    assert "\n" not in message
    return message


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def located(number: int) -> Any:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    return TensorProto.FromString(tensor.SerializeToString() + bytes([14 << 3, number]))


ADD = [helper.make_node("Add", [INPUT, "w"], [OUTPUT])]
IDENTITY = [helper.make_node("Identity", [INPUT], [OUTPUT])]
SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(np.ones(1, np.float32), "w"), int64("i", 0), [2**28]
)


def constant(**value: Any) -> Any:
    return model_of([helper.make_node("Constant", [], ["w"], **value), *ADD])


def listed(*tensors: TensorProto) -> Any:
    model = model_of([helper.make_node("Identity", [INPUT], [OUTPUT])])
    attribute = AttributeProto(name="a", type=AttributeProto.TENSORS, tensors=tensors)
    model.graph.node[0].attribute.append(attribute)
    return model


def branch(name: str, nodes: list[Any]) -> Any:
    return helper.make_graph(
        nodes, name, [], [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)]
    )


def looped() -> Any:
    """2⁶⁰ rounds of nothing, in 200 bytes."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Identity", ["x"], ["y"]),
        ],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("go", TensorProto.BOOL, []),
            info("x", FLOAT, None),
        ],
        [info("go_on", TensorProto.BOOL, []), info("y", FLOAT, None)],
    )
    return model_of(
        [helper.make_node("Loop", ["n", "", INPUT], [OUTPUT], body=body)], int64("n", 2**60)
    )


def nested(depth: int) -> Any:
    inner = branch("leaf", [helper.make_node("Identity", [INPUT], ["leaf"])])
    for level in range(depth):
        node = helper.make_node("If", ["c"], [f"o{level}"], then_branch=inner, else_branch=inner)
        inner = branch(f"level{level}", [node])
    last = helper.make_node("If", ["c"], [OUTPUT], then_branch=inner, else_branch=inner)
    return model_of([last], numpy_helper.from_array(np.array(True), "c"))


def with_function() -> Any:
    imports = [helper.make_opsetid("", 20)]
    function = helper.make_function("", "Add", ["a", "b"], ["c"], [], imports)
    return model_of(ADD, located(0), functions=[function])


def sparse_initializer() -> Any:
    model = model_of(ADD)
    model.graph.sparse_initializer.append(SPARSE)
    return model


def trained() -> Any:
    model = model_of(IDENTITY)
    model.training_info.add()
    return model


def text(operator: str) -> Any:
    return model_of([helper.make_node(operator, [INPUT, INPUT], [OUTPUT])])


EXTERNAL = "has external data, which no exported network needs; don't trust this bundle, and"
HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "external": (lambda: model_of(ADD, external("weights.bin")), EXTERNAL),
    "external way up": (lambda: model_of(ADD, external("../../etc/passwd")), EXTERNAL),
    "external absolute": (lambda: model_of(ADD, external("/etc/passwd")), EXTERNAL),
    "external in a constant": (lambda: constant(value=external("/etc/passwd")), EXTERNAL),
    "external in a list": (lambda: listed(located(0), external("x")), EXTERNAL),
    "external location alone": (lambda: model_of(ADD, located(1)), EXTERNAL),
    "another location": (lambda: model_of(ADD, located(2)), EXTERNAL),
    "sparse": (sparse_initializer, "has sparse tensors, which"),
    "sparse constant": (lambda: constant(sparse_value=SPARSE), "has sparse tensors, which"),
    "a loop": (looped, "has control flow, which"),
    "nested branches": (lambda: nested(8), "has control flow, which"),
    "a function": (with_function, "has functions, which"),
    "training": (trained, "has training information, which"),
    "text": (lambda: text("StringConcat"), "has the operator StringConcat, which"),
    "another domain": (
        lambda: model_of([helper.make_node("Run", [INPUT], [OUTPUT], domain="evil")]),
        "has operators of the domain 'evil', which",
    ),
    "ONNX Runtime's own": (
        lambda: model_of([helper.make_node("EPContext", [], [OUTPUT], domain="com.microsoft")]),
        "has operators of the domain 'com.microsoft', which",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_graph(name: str) -> None:
    make, expected = HOSTILE[name]
    message = refusal(make().SerializeToString())
    assert expected in message
    assert message.endswith("export the model again with 'audit export'")


def test_a_graph_that_is_let_in() -> None:
    weights = numpy_helper.from_array(np.ones(4, np.float32), "w")
    for domain in ("", "ai.onnx"):
        nodes = [helper.make_node("Add", [INPUT, "w"], [OUTPUT], domain=domain)]
        model = model_of(nodes, weights).SerializeToString()
        forward = Forward(model, device="cpu", threads=1, source=ONNX)
        np.testing.assert_array_equal(forward.logits(np.zeros((2, 4), np.float32)), np.ones((2, 4)))


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


# What another parser could read differently, or not at all.
ODD = {
    "group": bytes([7 << 3 | 3, 7 << 3 | 4]),
    "number 0": bytes([0, 0]),
    "tag of 33 bits": varint((2**32 | 7 << 3) | 2) + b"\0",
    "endless number": b"\x80" * 20,
    "cut number": b"\x08\x80",
    "content beyond the end": varint(7 << 3 | 2) + varint(2**31) + b"abc",
    "content far beyond": varint(7 << 3 | 2) + varint(2**69) + b"abc",
    "cut fixed": bytes([1 << 3 | 1, 0, 0]),
    "graph a number": bytes([7 << 3, 1]),
    "operator a number": message(7, message(1, bytes([4 << 3, 1]))),
    "domain a number": message(7, message(1, bytes([7 << 3, 1]))),
    "content beyond its message": message(7, varint(1 << 3 | 2) + b"\x7f") + b"\0" * 200,
    "binary domain": message(7, message(1, message(7, b"\xff\xfe"))),
    "text": b"not protobuf",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_bytes(name: str) -> None:
    assert refusal(ODD[name]) == f"{ONNX}: not an ONNX file; export the model again"


def test_every_one_of_several_values_is_judged() -> None:
    """Protobuf takes the last domain, and merges two graphs."""
    good = model_of(IDENTITY).SerializeToString()
    evil = message(7, b"evil") + message(7, b"")
    assert "the domain 'evil'" in refusal(good + message(7, message(1, evil)))


def test_ones_own_format_is_not_guessed() -> None:
    """ONNX Runtime takes bytes for its own format by four of them, and that isn't checked."""
    disguised = message(2, b"xxORTM" + b"z" * 40)
    assert disguised[4:8] == b"ORTM"
    check_onnx(disguised, ONNX)
    assert "ORT model verification failed" not in refusal(disguised)


def test_numbers_are_those_of_onnx() -> None:
    kinds: dict[str, Any] = {
        "model": onnx.ModelProto,
        "graph": onnx.GraphProto,
        "node": onnx.NodeProto,
        "attribute": onnx.AttributeProto,
        "tensor": onnx.TensorProto,
    }
    names = {kind: proto.DESCRIPTOR.fields_by_number for kind, proto in kinds.items()}
    entered = {
        (kind, names[kind][number].name, names[kind][number].message_type.name)
        for kind, fields in onnx_check.ENTERED.items()
        for number in fields
    }
    assert entered == {
        ("model", "graph", "GraphProto"),
        ("graph", "node", "NodeProto"),
        ("graph", "initializer", "TensorProto"),
        ("node", "attribute", "AttributeProto"),
        ("attribute", "t", "TensorProto"),
        ("attribute", "tensors", "TensorProto"),
    }
    judged = {kind: {names[kind][n].name for n in rows} for kind, rows in onnx_check.JUDGED.items()}
    assert judged == {
        "model": {"training_info", "functions"},
        "graph": {"sparse_initializer"},
        "node": {"op_type", "domain"},
        "attribute": {"g", "graphs", "sparse_tensor", "sparse_tensors"},
        "tensor": {"external_data", "data_location"},
    }
    # Nothing else leads to one of these messages, or to one that isn't a leaf.
    assert {
        (kind, field.name)
        for kind, proto in kinds.items()
        for field in proto.DESCRIPTOR.fields
        if field.message_type is not None and field.number not in onnx_check.ENTERED[kind]
    } - {(kind, name) for kind, fields in judged.items() for name in fields} == {
        ("model", "opset_import"),
        ("model", "metadata_props"),
        ("model", "configuration"),
        ("graph", "input"),
        ("graph", "output"),
        ("graph", "value_info"),
        ("graph", "quantization_annotation"),
        ("graph", "metadata_props"),
        ("node", "metadata_props"),
        ("node", "device_configurations"),
        ("attribute", "tp"),
        ("attribute", "type_protos"),
        ("tensor", "segment"),
        ("tensor", "metadata_props"),
    }


def test_time_is_bounded_by_parts_not_bytes(
    mnist_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = model_of(IDENTITY, numpy_helper.from_array(np.zeros(2**25, np.float32), "w"))
    for data, limit in ((mnist_bundle.read(ONNX), 0.1), (large.SerializeToString(), 0.1)):
        start = time.process_time()
        check_onnx(data, ONNX)
        assert time.process_time() - start < limit
    monkeypatch.setattr(onnx_check, "MAX_FIELDS", 1000)
    check_onnx(b"\x08\x01" * 1000, ONNX)
    assert "has more than 1,000 parts, which" in refusal(b"\x08\x01" * 1001)


def doubled(first: str, times: int) -> list[Any]:
    names = [first, *(f"d{i}" for i in range(times))]
    return [
        *(helper.make_node("Concat", [a, a], [b], axis=0) for a, b in pairwise(names)),
        helper.make_node("ReduceSum", [names[-1]], ["sum"], keepdims=0),
        helper.make_node("Add", [INPUT, "sum"], [OUTPUT]),
    ]


ONE = numpy_helper.from_array(np.ones((1, 4), np.float32), "one")
SUM = doubled("c", 0)
BOMBS = {
    "a constant of a terabyte": model_of(
        [helper.make_node("ConstantOfShape", ["s"], ["c"]), *SUM], int64("s", 2**20, 2**18)
    ),
    "a constant doubled": model_of(doubled("one", 36), ONE),
    "the input doubled": model_of(doubled(INPUT, 36)),
    "an expanded input": model_of(
        [helper.make_node("Expand", [INPUT, "s"], ["c"]), *SUM], int64("s", 2**38, 1, 4)
    ),
    "a claimed size": model_of(
        [helper.make_node("Identity", ["w"], ["c"]), *SUM],
        TensorProto(name="w", data_type=FLOAT, dims=[2**20, 2**18], raw_data=b"\0" * 16),
    ),
}
RUN = """
import resource, sys
from pathlib import Path
import numpy as np
resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
from audit import forward
from audit.errors import BundleError
forward.SHARE_OF_MEMORY = 2**28 / float(sys.argv[1])
try:
    session = forward.Forward(sys.stdin.buffer.read(), device="cpu", threads=1, source="model.onnx")
    session.logits(np.zeros((1, 4), np.float32))
except BundleError as exc:
    print(exc)
# Not ru_maxrss, in which what started this process counts, too.
print(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) >> 10)
"""


@pytest.mark.parametrize("name", BOMBS)
def test_memory_bombs(name: str) -> None:
    """Hundreds of bytes that would take a terabyte; here with 256 MiB for tensors."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(memory)],
        input=BOMBS[name].SerializeToString(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    error, peak = done.stdout.decode().splitlines()
    assert error.startswith("model.onnx: ONNX Runtime ")
    assert int(peak) < 700


def test_the_command_line_says_it(
    mnist_bundle: Bundle, mnist_h5: Path, tmp_path: Path, run_audit: Run
) -> None:
    hostile = with_onnx(mnist_bundle, tmp_path / "b", looped().SerializeToString())
    done = run_audit("scan", mnist_h5, "--eps", "0.1", "--model", hostile.path, "-o", "f.h5")
    assert done.returncode == 2
    assert f"{hostile.path / ONNX}: has control flow, which" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [hostile.path]


@pytest.fixture
def copied(mnist_bundle: Bundle, tmp_path: Path) -> Path:
    """The shipped bundle, to be broken."""
    return Path(shutil.copytree(mnist_bundle.path, tmp_path / "bundle"))


def replaced_by_link(path: Path, target: str) -> None:
    path.rename(path.parent.parent / path.name)
    path.symlink_to(target)


def replaced_by_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
        server.bind(path.name)


def replaced_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


NOT_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "link out": (lambda path: replaced_by_link(path, f"../{path.name}"), "a symbolic link, "),
    "link within": (lambda path: replaced_by_link(path, "./model.pt2"), "a symbolic link, "),
    "link to a secret": (lambda path: replaced_by_link(path, "/etc/passwd"), "a symbolic link, "),
    "link to a device": (lambda path: replaced_by_link(path, "/dev/zero"), "a symbolic link, "),
    "link to itself": (lambda path: replaced_by_link(path, path.name), "a symbolic link, "),
    "pipe": (replaced_by_pipe, "missing; expected a bundle"),
    "socket": (replaced_by_socket, "missing; expected a bundle"),
}


@pytest.mark.timeout(20)  # a pipe that is waited for hangs
@pytest.mark.parametrize("file", [MANIFEST, ONNX, TORCHSCRIPT])
@pytest.mark.parametrize("name", NOT_FILES)
def test_not_a_file(name: str, file: str, copied: Path) -> None:
    change, expected = NOT_FILES[name]
    bundle = load_bundle(copied)
    change(copied / file)
    attempts: list[Callable[[], Any]] = [lambda: load_bundle(copied)]
    if file != MANIFEST:
        attempts.append(lambda: bundle.read(file))  # it became that after it was loaded
    for attempt in attempts:
        with pytest.raises(BundleError) as caught:
            attempt()
        assert str(caught.value).startswith(f"{copied / file}: {expected}")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_swapped_between_check_and_opening(
    kind: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(copied)
    change = replaced_by_pipe if kind == "pipe" else lambda path: replaced_by_link(path, "../b")
    check = audit.bundle._check_regular

    def check_then_swap(path: Path) -> None:
        check(path)
        change(path)

    monkeypatch.setattr(audit.bundle, "_check_regular", check_then_swap)
    with pytest.raises(BundleError, match="can't be read" if kind == "link" else "not the file"):
        bundle.read(ONNX)


def test_a_bundle_behind_a_link_and_hard_links(copied: Path) -> None:
    """The name is the user's own, and hard links are files: their bytes are compared."""
    (copied.parent / "link").symlink_to(copied)
    (copied / ONNX).rename(copied.parent / "elsewhere")
    (copied / ONNX).hardlink_to(copied.parent / "elsewhere")
    assert load_bundle(copied.parent / "link").read(ONNX) == (copied / ONNX).read_bytes()


def test_a_file_grown_to_gigabytes_is_not_read(copied: Path) -> None:
    bundle = load_bundle(copied)
    for file in (ONNX, TORCHSCRIPT):
        os.truncate(copied / file, 2**40)  # sparse
        with pytest.raises(BundleError, match="not the file that was exported"):
            bundle.read(file)
    os.truncate(copied / MANIFEST, 2**40)
    with pytest.raises(BundleError, match="larger than 16,777,216 bytes; export the model again"):
        load_bundle(copied)


def test_a_claim_that_the_file_keeps_is_not_read(copied: Path) -> None:
    """A terabyte of nothing costs a stranger nothing."""
    size = 2**40
    document = json.loads((copied / MANIFEST).read_text())
    document["files"][ONNX]["size"] = size
    del document["sha256"]  # as an older version wrote it
    (copied / MANIFEST).write_text(json.dumps(document))
    os.truncate(copied / ONNX, size)
    with pytest.raises(BundleError, match="not the file that was exported"):
        load_bundle(copied).read(ONNX)


OPENED = """
import os, sys
opened = []
def hook(event, args):
    if event in ("open", "os.listdir", "os.scandir", "ctypes.dlopen", "exec", "import"):
        opened.append(str(args[0]))
sys.addaudithook(hook)
import audit
audit.scan(sys.argv[1], model=sys.argv[2], eps=0.1, limit=200, out="found.h5")
hits = {path for path in opened if path.startswith(sys.argv[2]) or path.startswith("hostile")}
print(*sorted(os.path.relpath(path, sys.argv[2]) for path in hits))
"""


def test_unexpected_files_are_never_opened(copied: Path, mnist_h5: Path, tmp_path: Path) -> None:
    for name in ("sitecustomize.py", "model.onnx.data", "model.py", "config.json", "libop.so"):
        (copied / name).write_text("raise SystemExit('ran')")
    done = subprocess.run(
        [sys.executable, "-c", OPENED, mnist_h5, copied],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == {MANIFEST, ONNX, TORCHSCRIPT}


def test_nothing_is_parsed_before_its_hash(copied: Path, mnist_h5: Path) -> None:
    """Each file is damaged so that its parser would fail, and what fails is the comparison."""
    for file in (ONNX, TORCHSCRIPT):
        broken = Path(shutil.copytree(copied, copied.parent / f"broken-{file}"))
        (broken / file).write_bytes(b"\xff" * (broken / file).stat().st_size)
        with pytest.raises(BundleError, match="not the file that was exported"):
            audit.scan(mnist_h5, model=broken, eps=0.1, limit=200, out=copied.parent / "f.h5")
