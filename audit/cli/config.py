"""`audit config`."""

from __future__ import annotations

import click

from audit.cli.output import echo_json, echo_lines


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def config(as_json: bool) -> None:
    """Say what is configured, and where.

    Each key of audit.toml and of [tool.audit] in pyproject.toml, both in this folder, with the
    value that a command takes where its options say nothing, and where that value is from.
    """
    from audit.config import effective, load_config, text_from_value
    from audit.gates.thresholds import read_gates

    found = effective(load_config())
    read_gates(found.gates)  # which checks them
    values = {key: setting._asdict() for key, setting in found.values.items()}
    gates = {name: setting._asdict() for name, setting in found.gates.items()}
    if as_json:
        echo_json({**values, "gates": gates})
        return
    rows = [
        (key, "-" if value is None else text_from_value(value), source)
        for key, (value, source) in (
            *found.values.items(),
            *((f"gates.{name}", setting) for name, setting in found.gates.items()),
        )
    ]
    key_width, value_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    echo_lines(
        "\n".join(
            f"{key:{key_width}}  {value:{value_width}}  {source}" for key, value, source in rows
        )
    )
