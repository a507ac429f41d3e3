"""Who a request belongs to, without saying who: keyed hashes, and sampling by them.

HMAC-SHA256 (RFC 2104) under a key that stays with the ingress: equal names give equal
hashes, and without the key a list of names can't be tried out on them.
"""

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from canary.errors import UsageError

KEY_FILE = "ingress.json"
_SCHEMA = "canary.ingress-key/1"
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Hasher:
    """Keyed hashes of names. Replicas that share the key agree on all of them."""

    key: bytes = field(repr=False)

    def session(self, name: str) -> str:
        """Return the name of a session, 32 hexadecimal digits."""
        return self._digest("session", name).hex()[:32]

    def request(self, name: str | None) -> str:
        """Return the id of a request; a random one if the sender gave it no name."""
        if name is None:
            return secrets.token_hex(16)
        return self._digest("request", name).hex()[:32]

    def kept(self, name: str, share: float) -> bool:
        """Return whether `name` is in a sample of `share`: always the same answer.

        A larger share keeps what a smaller one keeps.
        """
        drawn = int.from_bytes(self._digest("sample", name)[:8]) / 2**64
        return drawn < share

    def _digest(self, what: str, name: str) -> bytes:
        said = f"{what}\0{name}".encode("utf-8", "surrogatepass")
        return hmac.digest(self.key, said, hashlib.sha256)


def folder_key(folder: Path) -> bytes:
    """Return the key kept in a spool's folder; make a random one the first time.

    Raises:
        UsageError: The file is there and holds no key.
    """
    path = folder / KEY_FILE
    try:
        # Born readable by its owner alone: a mode set later comes too late.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read_key(path)
    key = secrets.token_bytes(_KEY_BYTES)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"schema": _SCHEMA, "key": key.hex()}, file)
        file.flush()
        os.fsync(descriptor)
    return key


def _read_key(path: Path) -> bytes:
    try:
        key = bytes.fromhex(json.loads(path.read_text())["key"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: no key can be read from it; remove it, and sessions recorded "
            "from now on get new names"
        ) from error
    if len(key) < _KEY_BYTES:
        raise UsageError(f"{path}: its key is shorter than 32 bytes; remove the file")
    return key
