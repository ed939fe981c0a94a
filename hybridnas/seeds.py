"""Seeds that follow from one seed."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: object) -> int:
    """A seed in 0..2^31-1 from any values: alike for alike, unrelated for different."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
