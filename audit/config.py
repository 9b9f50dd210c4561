"""Where the model comes from when the call doesn't say: environment, `audit.toml`, the dataset."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path, PurePosixPath

from audit.errors import BundleNotFoundError, OptionError

MODEL_VARIABLE = "AUDIT_MODEL"
WAYS = (
    f"name one with --model, {MODEL_VARIABLE}, 'model' in audit.toml, or the file's attribute "
    "'audit_bundle'"
)


def find_model(model: str | os.PathLike[str] | None, dataset: str, attribute: str | None) -> str:
    """The bundle to scan with: the argument, else the environment, the configuration, the file.

    Args:
        model: What the call names.
        dataset: Path of the dataset.
        attribute: Its attribute `audit_bundle`: a shipped bundle's name, or a path from the
            dataset's folder down. A dataset may come from a stranger, so it can't point elsewhere.

    Raises:
        BundleNotFoundError: None is named, or the attribute points outside the dataset's folder.
        OptionError: The configuration file can't be read.
    """
    from audit.bundle import SHIPPED_NAMES

    named = os.fspath(model) if model is not None else os.environ.get(MODEL_VARIABLE)
    named = named or _configured()
    if named:
        return named
    if not attribute:
        raise BundleNotFoundError(f"{dataset}: no model to scan with; {WAYS}")
    if attribute in SHIPPED_NAMES:
        return attribute
    inner = PurePosixPath(attribute)
    if inner.is_absolute() or ".." in inner.parts:
        raise BundleNotFoundError(
            f"{dataset}: its attribute 'audit_bundle' is {attribute!r}, which leads out of its "
            f"folder; {WAYS}"
        )
    return str(Path(dataset).parent / inner)


def _configured() -> str | None:
    """`model` of ./audit.toml, else of [tool.audit] in ./pyproject.toml; relative to here."""
    for path, table in ((Path("audit.toml"), ()), (Path("pyproject.toml"), ("tool", "audit"))):
        if not os.path.isfile(path):
            continue
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as exc:
            raise OptionError(f"{path}: not TOML that can be read ({exc})") from exc
        for key in table:
            document = document.get(key, {})
            if not isinstance(document, dict):
                raise OptionError(f"{path}: {'.'.join(table)} is not a table")
        model = document.get("model")
        if model is not None and not isinstance(model, str):
            raise OptionError(f"{path}: model is {model!r}; expected the path of a bundle")
        if model:
            return model
    return None
