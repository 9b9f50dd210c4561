"""`audit export`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

import audit
from audit.cli.completion import DIRECTORY, FILE
from audit.cli.configured import ConfiguredCommand
from audit.cli.names import names_from_option
from audit.cli.output import echo_lines
from audit.options import RAW_DTYPES


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    """Comma-separated numbers; fractions such as 1/255 are numbers."""

    name = "numbers"

    def __init__(self, parse: Callable[[str], float]) -> None:
        self._parse = parse

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(self._parse(part) for part in value.split(","))
        except (ValueError, ZeroDivisionError, OverflowError):
            self.fail(f"{value!r}: expected numbers with commas between them.", param, ctx)


def _number(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(text)


def _single(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    if isinstance(value, tuple):
        if len(value) != 1:
            raise click.BadParameter("expected one number.", ctx, param)
        return value[0]
    return value


@click.command(cls=ConfiguredCommand)
@click.argument("factory", type=FILE, metavar="MODULE_OR_FILE.py:FACTORY")
@click.option(
    "--weights", type=FILE, metavar="FILE", help=".safetensors, state dict .pt/.pth, or .ckpt."
)
@click.option(
    "--input-shape", type=_Numbers(int), required=True, help="Of the network, e.g. 1,28,28."
)
@click.option("--raw-dtype", type=click.Choice(RAW_DTYPES), help="Of the samples as stored.")
@click.option("--raw-layout", metavar="HW|HWC|CHW|F|…", help="Of the samples as stored.")
@click.option(
    "--scale",
    type=_Numbers(_number),
    callback=_single,
    help="Input space is raw · scale + offset. [default: 1/255 for uint8, else 1]",
)
@click.option("--offset", type=_Numbers(_number), callback=_single, default="0", show_default=True)
@click.option("--mean", type=_Numbers(_number), help="One number, or one a channel.")
@click.option("--std", type=_Numbers(_number), help="One number, or one a channel.")
@click.option(
    "--classes", type=FILE, metavar="NAMES", help="a,b,c or a text file with a name a line."
)
@click.option("--parity-data", type=FILE, metavar="DATA.h5", help="Prove parity on its samples.")
@click.option("--pt2", is_flag=True, help="Also write model.pt2 (torch.export).")
@click.option("--int8", is_flag=True, help="Also write model.int8.onnx, which scans may use.")
@click.option(
    "--calibration", type=FILE, metavar="DATA.h5", help="Quantise by its samples, with --int8."
)
@click.option(
    "--images", metavar="NAME", help="Name of the samples in both files, where it isn't found."
)
@click.option(
    "-o",
    "--out",
    type=DIRECTORY,
    metavar="BUNDLE",
    required=True,
    help="Directory of the bundle.",
)
def export(
    factory: str, out: str, weights: str | None, classes: str | None, **options: Any
) -> None:
    """Turn a trained model into a bundle: ONNX and TorchScript, proven to agree.

    FACTORY takes no argument and returns the nn.Module. It is exported in evaluation mode.
    """
    from audit.factory import model_from_factory

    names = names_from_option("--classes", classes, "class name")
    model = model_from_factory(factory).eval()
    bundle = audit.export(model, out, weights=weights, classes=names, **options)
    manifest, parity = bundle.manifest, bundle.manifest.parity
    raw = manifest.preprocess
    int8 = manifest.int8
    quantised = (
        ""
        if int8 is None
        else (
            f"int8      {int8.held_out} {int8.source} samples: guard {int8.guard:.2g}, "
            f"{int8.proposed['0.1']:.2%} proposed at eps 0.1, {int8.speedup:.2g} times as fast\n"
        )
    )
    echo_lines(
        f"raw       {raw.raw_dtype} {raw.raw_layout} {raw.raw_shape}\n"
        f"input     {raw.input_shape}: raw · {raw.scale:.6g} + {raw.offset:g}, then "
        f"(x - {_shown(raw.mean)}) / {_shown(raw.std)}\n"
        f"classes   {len(manifest.classes)}\n"
        f"parity    {parity.samples} {parity.source} samples: max |Δlogit| "
        f"{parity.max_logit_difference:.2g}, max |Δmargin| {parity.max_margin_difference:.2g}, "
        f"top-1 differs in {parity.top1_disagreements}; guard {parity.guard:.2g}\n"
        f"{quantised}"
        f"bundle    {out} ({', '.join(manifest.files)})"
    )


def _shown(values: tuple[float, ...]) -> str:
    shown = ", ".join(f"{value:g}" for value in values)
    return shown if len(values) == 1 else f"({shown})"
