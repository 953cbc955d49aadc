"""Inputs as sets of features: words and their neighbours, letters of words, values of everything else.

The same functions make features for training and for answering.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice, pairwise

from mmh3 import mmh3_x64_128_digest

from tanuki_async._records import JsonValue

WORD = re.compile(r"[^\W_]+|[^\w\s]")
DIGIT = re.compile(r"\d")
ALIKE = re.compile(r"[^\W_]+")
REPEATED = re.compile(r"(.)\1{2,}")
DIGITS = str.maketrans("0123456789", "0000000000")

LONGEST_TEXT = 6_000
"""Characters of one string that are looked at: a page of news; what comes later rarely changes the answer."""
SHAPED_WORDS = 100
"""Words of one string whose way of writing is looked at."""
LETTERED_WORDS = 60
"""Different words of one string that are looked at letter by letter: enough for a message, bounded for a page."""
MOST_PARTS = 300
"""Strings and values of one call that are looked at."""
DEEPEST = 20
"""Levels of lists and objects in each other that are looked at."""
LARGEST_POWER = 1024
CACHED_WORDS = 20_000
FIELD = "\x1f"
"""Stands between a field's name and a feature of it."""

Pieces = Mapping[str, tuple[str, ...]]


def words_of(text: str) -> list[str]:
    """Split a text into words and single marks, as they were written."""
    return WORD.findall(text[:LONGEST_TEXT])


def plain(words: Sequence[str]) -> list[str]:
    """Bring words to lower case; a number is followed by its shape."""
    forms: list[str] = []
    for word in words:
        forms.append(word.lower())
        if word[0].isdigit() or (not word.isalpha() and DIGIT.search(word)):
            forms.append(word.translate(DIGITS))
    return forms


def spelled(forms: Sequence[str]) -> Iterable[str]:
    """Return the words that are looked at letter by letter."""
    return islice(dict.fromkeys(forms[: 2 * LETTERED_WORDS]), LETTERED_WORDS)


def phrases_of(words: Sequence[str], forms: Sequence[str], prefix: str) -> list[str]:
    """Return what words make together: pairs, how the text opens, what its opening is asked of, shapes, length."""
    found = [*map(" ".join, pairwise(forms)), *map(shape_of, words[:SHAPED_WORDS]), f"\x1e{len(words).bit_length()}"]
    if forms:
        opening = " ".join(forms[:2])
        found += ["^" + " ".join(forms[:length]) for length in (1, 2, 3, 4)]
        found += [f"{opening}>{form}" for form in forms[2:12]]
    return [prefix + each for each in found] if prefix else found


@lru_cache(maxsize=CACHED_WORDS)
def shape_of(word: str) -> str:
    """Return how a word is written: `Aa` for Monday and Friday alike, `AA0` for ab12 in capitals."""
    shape = "".join("0" if c.isdigit() else "A" if c.isupper() else "a" if c.isalpha() else c for c in word[:30])
    return "\x1e" + REPEATED.sub(r"\1\1", shape)


def letters_of(form: str, prefix: str) -> list[str]:
    """Return the runs of four letters in a word, its ends included."""
    framed = f" {form} "
    return [prefix + framed[i : i + 4] for i in range(len(framed) - 3)]


def texts_and_values(inputs: Mapping[str, JsonValue], fields: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Take inputs apart into texts, each with the prefix of its field, and features of everything that is no text."""
    texts: list[tuple[str, str]] = []
    values: list[str] = []
    for name, value in inputs.items():
        prefix = "" if fields and name == fields[0] else name + FIELD
        if type(value) is str and not prefix:
            texts.append((prefix, value))
        else:
            _take_apart(value, prefix or name + FIELD, texts, values)
    return texts, values


def _take_apart(value: JsonValue, prefix: str, texts: list[tuple[str, str]], values: list[str], depth: int = 0) -> None:
    if depth > DEEPEST or len(texts) + len(values) > MOST_PARTS:
        return
    if isinstance(value, str):
        texts.append((prefix, value))
        if len(value) <= 40:
            values.append(f"{prefix}={value}")
    elif isinstance(value, dict):
        for name, each in value.items():
            _take_apart(each, f"{prefix}{name}{FIELD}", texts, values, depth + 1)
    elif isinstance(value, list):
        values.append(f"{prefix}#{min(len(value), 20)}")
        for each in value:
            _take_apart(each, f"{prefix}[]{FIELD}", texts, values, depth + 1)
    elif isinstance(value, bool) or value is None:
        values.append(f"{prefix}={value}")
    else:
        values += [prefix + each for each in _of_number(value)]


def _of_number(number: float) -> Iterable[str]:
    """Name a number, its sign, its size, and the powers of two up to its size, so that 'more than' can be learnt."""
    if isinstance(number, int):
        size = number.bit_length()
    else:
        size = math.frexp(number)[1] if math.isfinite(number) else LARGEST_POWER
    sign = "-" if number < 0 else "+"
    if size <= LARGEST_POWER:  # writing down a huge number takes long
        yield f"={number}"
    yield f"{sign}"
    yield f"{sign}2^{size}"
    for power in range(min(size, 40)):
        yield f"{sign}>2^{power}"


def digest_of(inputs: Mapping[str, JsonValue]) -> bytes:
    """Return 16 bytes that only the same inputs share."""
    return mmh3_x64_128_digest(json.dumps(dict(inputs), separators=(",", ":")).encode())


def likeness(inputs: Mapping[str, JsonValue]) -> bytes:
    """Return what near-identical inputs share: letters in lower case, any digit alike, no spaces or marks."""
    text = json.dumps(dict(inputs), ensure_ascii=False).lower().translate(DIGITS)
    return " ".join(ALIKE.findall(text)).encode("utf-8", "surrogatepass")
