"""Findings to a Weights & Biases run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from audit.trackers.record import GROUP, Record

if TYPE_CHECKING:
    from audit.options import LogOptions

PACKAGE = "wandb"


def send(record: Record, options: LogOptions) -> str:
    """Log it to the run that is going on in this process, or to one of its own.

    `WANDB_MODE=offline` keeps it on this machine.

    Returns:
        Where it is.
    """
    import wandb

    if wandb.run is not None and options.starts_no_run:
        return _fill(wandb.run, record, options)
    run = wandb.init(
        project=options.experiment,
        name=options.run,
        dir=options.uri,
        job_type="near-ties",
        reinit="create_new",
    )
    try:
        where = _fill(run, record, options)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
    return where


def _fill(run: Any, record: Record, options: LogOptions) -> str:
    import wandb

    run.config.update(record.parameters, allow_val_change=True)
    pictures = {
        each.tag: wandb.Image(each.image(), caption=each.caption) for each in record.pictures
    }
    run.log({**record.metrics, **pictures}, step=options.step)
    name = re.sub(r"[^\w.-]", "-", f"{GROUP}-{record.name}")
    artifact = wandb.Artifact(name, type=GROUP)
    for path in record.files:
        artifact.add_file(str(path))
    run.log_artifact(artifact)
    return str(run.url or run.dir.removesuffix("/files"))
