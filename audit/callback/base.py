"""The callback's base class: that of whichever Lightning package there is.

`lightning` and `pytorch_lightning` are the same code under two names, each with a `Callback` of its
own. Neither's Trainer asks for the class of what stands in its list of callbacks, only for the
hooks, which are the same: so either base serves both.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

from audit.errors import InstallationError

PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def callback_classes() -> tuple[type, ...]:
    """`Callback` of every Lightning that is imported; where none is, of the first installed.

    Raises:
        InstallationError: None is installed.
    """
    imported = [name for name in PACKAGES if name in sys.modules]
    names = imported or [name for name in PACKAGES if _is_installed(name)][:1]
    if not names:
        raise InstallationError(
            "audit.callback needs Lightning 2: pip install 'near-tie-audit[lightning]'"
        )
    return tuple(importlib.import_module(name).Callback for name in names)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of `lightning.pytorch`: there is no `lightning`
        return False
