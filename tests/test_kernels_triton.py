"""The Triton kernel without a GPU: interpreted, and compiled for GPUs that aren't there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import audit_kernels
from audit_kernels import triton as kernels

SUITE = Path(__file__).with_name("test_kernels.py")
# Says on standard error which programs were launched, as often as they were.
COUNT = """
import atexit, collections, sys
from triton.runtime.interpreter import InterpretedFunction
launches = collections.Counter()
run = InterpretedFunction.run
def counted(self, *args, **kwargs):
    launches[self.__name__] += 1
    return run(self, *args, **kwargs)
InterpretedFunction.run = counted
import pytest
code = pytest.main(sys.argv[1:])
print("launches:", *sorted(launches.items()))
sys.exit(code)
"""


def run_suite(select: str, *options: str) -> str:
    """The output of the suite, run with Triton's interpreter."""
    options = ("-q", "-p", "no:cacheprovider", "-k", select, *options)
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(SUITE), *options],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=SUITE.parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_suite_passes_with_the_interpreter() -> None:
    output = run_suite("triton")
    summary = re.search(r"^(\d+) passed, \d+ deselected in", output, re.MULTILINE)
    assert summary, output  # none skipped, none failed
    expected = re.search(r"^(\d+)/\d+ tests collected", run_suite("torch", "--co"), re.MULTILINE)
    assert expected
    assert int(summary[1]) == int(expected[1]) > 150  # as many as of the other tensor kernel
    launches = dict(re.findall(r"\('(\w+)', (\d+)\)", output))
    assert set(launches) == {"_top2", "_count", "_write"}
    assert int(launches["_top2"]) > int(summary[1])


@pytest.mark.parametrize("capability", [75, 80, 90])
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32", "fp64"])
@pytest.mark.parametrize(("rows", "columns"), [(512, 2), (64, 16), (1, kernels.WIDEST)])
def test_it_compiles_for_a_gpu(dtype: str, capability: int, rows: int, columns: int) -> None:
    wide = "*fp64" if dtype == "fp64" else "*fp32"
    types = {"logits": f"*{dtype}", "margin": wide, "top": wide, "pairs": "*i64"}
    constants = {"ROWS": rows, "COLUMNS": columns}
    for classes in (True, False):
        code = compiled(kernels._top2, capability, types, constants | {"CLASSES": classes})
        assert code.asm["cubin"]
        # In registers, not in memory: nothing but the logits is read.
        assert code.asm["ptx"].count(".local") == 0


@pytest.mark.parametrize("capability", [75, 80, 90])
@pytest.mark.parametrize("dtype", ["*fp32", "*fp64"])
@pytest.mark.parametrize("each", [True, False])
def test_the_compaction_compiles_for_a_gpu(each: bool, dtype: str, capability: int) -> None:
    types = {"margin": dtype, "limit": dtype, "found": "*i64", "stops": "*i64"}
    types |= {"positions": "*i64"}
    constants = {"EACH": each, "BLOCK": kernels.POSITIONS}
    for function in (kernels._count, kernels._write):
        assert compiled(function, capability, types, constants).asm["cubin"]


def compiled(
    function: Any, capability: int, types: dict[str, str], constants: dict[str, Any]
) -> Any:
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32")
        for name in function.arg_names
    }
    source = ASTSource(function, signature, constants)
    options = {"enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def test_what_is_not_on_a_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="a tensor on cpu; kernel 'triton' takes CUDA tensors"):
        audit_kernels.get("triton")(torch.zeros(2, 3), classes=False)
    with pytest.raises(ValueError, match="a tensor on cpu"):
        kernels.candidates(torch.zeros(2), torch.tensor(0.5))
