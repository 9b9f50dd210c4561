"""`signature.json`: a bundle vouched for by a key that machines share through the environment.

A signature is an HMAC-SHA256 of the manifest's SHA-256; the manifest has that of every other file.
Who holds the key can sign and check, nobody else can sign.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re

from audit import strict_json
from audit.errors import OptionError

SIGNATURE = "signature.json"
SCHEMA = "audit-signature/1"
KEY_VARIABLE = "AUDIT_TRUST_KEY"
LEAST_CHARACTERS = 32
MAX_BYTES = 2**16


def shared_key() -> bytes | None:
    """The key that the environment has; None without one, or where it is empty.

    Raises:
        OptionError: It is short enough to be guessed.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:  # what a CI server puts in the place of a secret that a job mayn't have
        return None
    if len(key) < LEAST_CHARACTERS:
        raise OptionError(
            f"{KEY_VARIABLE}: {len(key)} characters; expected {LEAST_CHARACTERS} or more, such as "
            "'openssl rand -hex 32' prints"
        )
    return os.fsencode(key)


def key_id(key: bytes) -> str:
    """Which key it is, without telling the key: 16 hexadecimal digits."""
    return hashlib.sha256(b"audit-trust-key/1\0" + key).hexdigest()[:16]


def sign(manifest_sha256: str, key: bytes) -> bytes:
    """What `signature.json` says of a bundle."""
    document = {
        "schema": SCHEMA,
        "key_id": key_id(key),
        "signature": _mac(manifest_sha256, key),
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def why_not_signed(text: bytes, manifest_sha256: str, key: bytes) -> str:
    """What keeps a `signature.json` from vouching for the bundle; empty where it does."""
    try:
        document = strict_json.loads(text)
    except (ValueError, RecursionError):
        return "is not JSON"
    fields = document if isinstance(document, dict) else {}
    if fields.get("schema") != SCHEMA:
        return f"has another schema than {SCHEMA!r}"
    if fields.get("key_id") != key_id(key):
        return f"is by another key than {KEY_VARIABLE} (which is {key_id(key)})"
    signature = fields.get("signature")
    if not (isinstance(signature, str) and re.fullmatch("[0-9a-f]{64}", signature)):
        return "has no signature of 64 hexadecimal digits"
    if not hmac.compare_digest(signature, _mac(manifest_sha256, key)):
        return "is not of this manifest, which was changed or is another bundle's"
    return ""


def _mac(manifest_sha256: str, key: bytes) -> str:
    # The schema in front: the same key may sign other things some day.
    return hmac.digest(key, f"{SCHEMA}\0{manifest_sha256}".encode(), "sha256").hex()
