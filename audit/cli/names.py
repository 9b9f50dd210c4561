"""Names on the command line."""

from __future__ import annotations

import os
from pathlib import Path

from audit.errors import OptionError


def names_from_option(option: str, value: str | None, what: str) -> list[str] | None:
    """Names with commas between them, or those of a text file, one a line; None: none given.

    Args:
        option: Whose value it is, for messages.
        value: As given.
        what: One of them in words, for messages.

    Raises:
        OptionError: The file isn't text.
    """
    if value is None:
        return None
    if os.path.isfile(value):  # Path.is_file raises where a list is too long for a name
        try:
            lines = Path(value).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise OptionError(
                f"{option} {value}: not a text file in UTF-8; expected a {what} a line"
            ) from exc
        return [line.strip() for line in lines if line.strip()]
    return [name.strip() for name in value.split(",")]
