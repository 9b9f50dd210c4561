"""Who vouches for a bundle: loading its TorchScript can run code.

This machine does, where the bundle was made on it or the user ran `audit trust`; a key that several
machines share; this program, of what ships with it; or the caller, with `--trust`. What is vouched
for is the manifest, which has the hash of every file.
"""

from __future__ import annotations

import os
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from audit.errors import OptionError, OutputError, TrustStoreError, UntrustedError
from audit.output_file import write_file
from audit.signature import MAX_BYTES, SIGNATURE, key_id, shared_key, sign, why_not_signed
from audit.trust_store import TrustRecord, default_store

if TYPE_CHECKING:
    from audit.bundle import Bundle

# Of their manifests. Their names don't count: anybody can call a bundle so.
SHIPPED_SHA256 = {"mnist": "02e693ca5a1711ac9b70a6e483e72ee2efb439ee0dbabbcea7951ea00e3daec3"}
SHIPPED = "shipped"
THE_CALLER = "the caller"
SHARED_KEY = "shared key"
THIS_MACHINE = "this machine"
ID_DIGITS = 16


class Verdict(NamedTuple):
    """What there is to say for a bundle.

    Attributes:
        by: Who vouches for it: "shipped", "the caller", "shared key" or "this machine"; None:
            nobody.
        flaw: What kept one of them from it, where there is something to mend.
    """

    by: str | None
    flaw: str = ""


def judge(bundle: Bundle) -> Verdict:
    """Find who vouches for the bundle.

    Raises:
        OptionError: The key in the environment is too short.
    """
    if bundle.manifest_sha256 in SHIPPED_SHA256.values():
        return Verdict(SHIPPED)
    if bundle.trust:
        return Verdict(THE_CALLER)
    flaws = []
    key = shared_key()
    if key is not None:
        flaw = _flaw_of_signature(bundle, key)
        if not flaw:
            return Verdict(SHARED_KEY)
        flaws.append(flaw)
    try:
        if default_store().knows(bundle.manifest_sha256):
            return Verdict(THIS_MACHINE)
    except TrustStoreError as exc:
        flaws.append(str(exc))
    return Verdict(None, "; ".join(flaws))


def refusal(bundle: Bundle) -> UntrustedError:
    """The error that says why nothing of it that could run code is loaded, and what to do."""
    flaw = judge(bundle).flaw
    return UntrustedError(
        f"{bundle.path}: not trusted on this machine, and its TorchScript can run code when it is "
        "loaded; if you know who made it, run 'audit trust "
        f"{shlex.quote(str(bundle.path))}' once, or add --trust ('audit scan --no-gradients' needs "
        f"neither){flaw and f'. {flaw}'}"
    )


def trust_bundle(bundle: Bundle) -> tuple[str, ...]:
    """Vouch for a bundle: on this machine, and for all who have the key in the environment.

    Returns:
        Who vouches for it now. One that ships needs nobody else.

    Raises:
        BundleError: A file of it isn't the one that was exported.
        OptionError: The key is too short.
        OutputError: The signature can't be written into the bundle.
        TrustStoreError: What this machine trusts can't be changed.
    """
    bundle.check_files()
    if judge(bundle).by == SHIPPED:
        return (SHIPPED,)
    key = shared_key()
    if key is None:
        remember(bundle)
        return (THIS_MACHINE,)
    write_file(bundle.path / SIGNATURE, sign(bundle.manifest_sha256, key))
    remember(bundle)
    return THIS_MACHINE, f"{SHARED_KEY} {key_id(key)}"


def remember(bundle: Bundle) -> None:
    """Vouch for a bundle on this machine.

    Raises:
        TrustStoreError: What this machine trusts can't be changed.
    """
    record = TrustRecord(
        manifest_sha256=bundle.manifest_sha256,
        name=bundle.manifest.name,
        path=os.path.abspath(bundle.path),
        trusted=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    default_store().add(record)


def distrust_bundle(bundle: Bundle) -> None:
    """Take back what `trust_bundle` did.

    Raises:
        OptionError: Nobody trusted it, or it ships.
        OutputError: Its signature can't be deleted.
        TrustStoreError: What this machine trusts can't be changed.
    """
    verdict = judge(bundle)
    if verdict.by == SHIPPED:
        raise OptionError(f"{bundle.path}: ships with this program, which trusts it; leave it out")
    key = shared_key()
    signed = key is not None and not _flaw_of_signature(bundle, key)
    if signed:
        _delete(bundle.path / SIGNATURE)
    if not default_store().remove(bundle.manifest_sha256) and not signed:
        raise _unknown(os.fspath(bundle))


def forget(bundle_id: str) -> TrustRecord:
    """Trust a bundle no longer on this machine, wherever it is.

    Args:
        bundle_id: The first 16 digits of its manifest's SHA-256, or more of them.

    Raises:
        OptionError: There is no such record, or more than one.
        TrustStoreError: What this machine trusts can't be told or changed.
    """
    store = default_store()
    found = [each for each in store.list().records if each.manifest_sha256.startswith(bundle_id)]
    if len(found) != 1:
        raise _unknown(bundle_id)
    store.remove(found[0].manifest_sha256)
    return found[0]


def is_bundle_id(text: str) -> bool:
    """Whether it can be the number of a record, and isn't the name of a folder."""
    return re.fullmatch(f"[0-9a-f]{{{ID_DIGITS},64}}", text) is not None and not os.path.isdir(text)


def _unknown(bundle: str) -> OptionError:
    return OptionError(
        f"{bundle}: not a bundle that this machine trusts; 'audit trust --list' shows those"
    )


def _flaw_of_signature(bundle: Bundle, key: bytes) -> str:
    """Why the bundle's signature isn't by this key; empty where it is."""
    path = bundle.path / SIGNATURE
    if not os.path.isfile(path):
        return f"{path}: missing"
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES)
    except OSError as exc:
        return f"{path}: can't be read ({exc.strerror})"
    flaw = why_not_signed(text, bundle.manifest_sha256, key)
    return flaw and f"{path} {flaw}"


def _delete(path: Path) -> None:
    try:
        path.unlink()
    except OSError as exc:
        raise OutputError(f"{path}: can't be deleted ({exc.strerror})") from exc
