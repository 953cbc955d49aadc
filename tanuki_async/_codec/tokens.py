"""How many tokens a text is, roughly, and rather too many than too few."""

from __future__ import annotations

import re
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from tanuki_async._records import Head, Turn

CHARACTERS_PER_TOKEN = 3.5  # plain ASCII; vendors say "about 4" for English, JSON and code are denser
TOKENS_PER_MARK = 0.6  # a character beyond ASCII in an alphabet: Latin with accents, Greek, Cyrillic, Arabic …
TOKENS_PER_SIGN = 1.2  # a character of a large script (CJK, Hangul, kana) or an emoji
TURN = 4  # what a chat format spends around each message

_HEAVY = re.compile(r"[\u0900-\u0eff\u1000-\u109f\u1100-\u11ff\u2e80-\ud7ff\uf900-\ufaff\uff00-\U0010ffff]")
_heads: WeakKeyDictionary[Head, int] = WeakKeyDictionary()


def estimate(text: str) -> int:
    """Guess the tokens of `text` without a tokenizer: by length, and by script where it is not ASCII."""
    if text.isascii():
        return int(len(text) / CHARACTERS_PER_TOKEN) + 1
    ascii_ = len(text.encode("ascii", "ignore"))
    signs = len(_HEAVY.findall(text))
    marks = len(text) - ascii_ - signs
    return int(ascii_ / CHARACTERS_PER_TOKEN + marks * TOKENS_PER_MARK + signs * TOKENS_PER_SIGN) + 1


def turn_tokens(turn: Turn) -> int:
    """Guess the tokens of one message, with what is attached to it."""
    tokens = estimate(turn.text) + TURN
    if turn.attachments:
        tokens += sum(attachment.tokens for attachment in turn.attachments)
    return tokens


def size(head: Head, turns: Sequence[Turn]) -> int:
    """Guess the tokens of a whole prompt. What stays the same from call to call is counted once per head."""
    known = _heads.get(head)
    if known is None:
        known = estimate(head.system) + TURN + _length(head.examples)
        _heads[head] = known
    return known + _length(turns)


def _length(turns: Sequence[Turn]) -> int:
    return sum(map(turn_tokens, turns))
