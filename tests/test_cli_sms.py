from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from importlib.resources import files

from tanuki_async._cli import _sms


def test_the_messages_are_the_ones_that_were_published_without_repetitions() -> None:
    messages = _sms.load()
    assert len(messages) == len(set(messages)) == len({text for text, _ in messages}) == 5159
    assert Counter(label for _, label in messages) == {"ham": 4518, "spam": 641}


def test_the_file_is_unchanged_and_carries_its_attribution() -> None:
    data = files("tanuki_async._cli") / "data"
    content = gzip.decompress(data.joinpath("sms_spam.csv.gz").read_bytes())
    assert hashlib.sha256(content).hexdigest() == _sms.CONTENT
    assert "Almeida" in data.joinpath("ATTRIBUTION.txt").read_text("utf-8")


def test_the_seed_decides_the_order() -> None:
    first, again, other = _sms.load(), _sms.load(), _sms.load(seed=1)
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other)
    assert {label for _, label in first[:50]} == {"ham", "spam"}


def test_no_message_is_cut_or_run_together() -> None:
    texts = [text for text, _ in _sms.load()]
    assert not [text for text in texts if "\n" in text or text != text.strip() or not text]
    assert max(map(len, texts)) < 1000
