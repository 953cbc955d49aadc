"""The messages of the demonstration: real SMS, labelled spam or ham, shipped with the package."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
from importlib.resources import files

CONTENT = "d29ed549ec599dd1efad4331066ee617c69440b7e85b65f64fe6a72db9eafbc8"
"""SHA-256 of the file, unpacked."""


def load(seed: int = 0) -> list[tuple[str, str]]:
    """Return 5,159 distinct messages as (text, "ham" or "spam"), in an order that `seed` alone decides.

    Where they come from is told in `data/ATTRIBUTION.txt`.
    """
    packed = (files("tanuki_async._cli") / "data" / "sms_spam.csv.gz").read_bytes()
    rows = csv.reader(io.StringIO(gzip.decompress(packed).decode("utf-8"), newline=""))
    next(rows)
    return sorted(((text, label) for label, text in rows), key=lambda message: _place(seed, message[0]))


def _place(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{text}".encode()).digest()  # random.shuffle promises no order across versions
