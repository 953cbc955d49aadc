"""What models might answer: good answers spoiled in many ways, and nonsense."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random

ODD = [
    "NaN", "Infinity", "-Infinity", "1e999", "-0", "01", "0x10", "1_000", "1.", ".5", "null", "None", "undefined", "nil",
    "true", "True", "TRUE", "yes", "on", "wahr", "vrai", "'x'", '""', "[]", "{}", "[[]]", '{"value":1}', "1+1", "1e5",
    "9" * 25, "0.1", "1.0", '"1"', "2026-01-02", '"2026-13-45"', "\\u0000", '"\\ud800"', '"\\u0000"', "__import__('os')",
    '{"key":"a","value":1}', '{"item_0":1}', '{"option_0":1}', "\ud800", "\x00", "\u2028", "\ufeff", "[1,2", "(1, 2)",
]  # fmt: skip
AROUND = [
    "{}", "```json\n{}\n```", "```\n{}\n```", "```{}```", "Sure! {}", "{} is the answer.", "<think>{}</think>{}", "{}{}",
    "{}\n{}", "[{}]", '{{"value":{}}}', '{{"answer":{}}}', '{{"value":{{"value":{}}}}}', "<think>maybe [1]</think>\n{}",
    "First I thought {}, then rather:\n```json\n{}\n```", "\ufeff{}", " \n{}\t", "{};", "// a comment\n{}", "/* {{ */{}",
    '"{}"', "`{}`", "**{}**", "- {}", "Answer: {}", "{{{}}}", "# {{'a': 1}}\n{}", "data: {}\n\n", "{}\n\nI hope this helps {{:)}}",
]  # fmt: skip
WORDS = {"true": "True", "false": "False", "null": "None"}
FOREIGN = {"true": "wahr", "false": "falsch", "null": "nil"}
_LITERAL = re.compile(r"\b(?:true|false|null)\b")
_NUMBER = re.compile(r"-?\b\d+(?:\.\d+)?\b")
_KEY = re.compile(r'"(?:[^"\\]|\\.)*"(?=:)')


def _place(draw: Random, text: str) -> int:
    return draw.randrange(len(text) + 1)


def cut(draw: Random, text: str) -> str:
    return text[: _place(draw, text)]


def behead(draw: Random, text: str) -> str:
    return text[_place(draw, text) :]


def flip(draw: Random, text: str) -> str:
    data = bytearray(text.encode(errors="replace"))
    for _ in range(draw.randint(1, 3)):
        if data:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return data.decode(errors=draw.choice(["replace", "ignore", "surrogateescape"]))


def drop(draw: Random, text: str) -> str:
    place = _place(draw, text)
    return text[:place] + text[place + draw.randint(1, 4) :]


def repeat(draw: Random, text: str) -> str:
    place = _place(draw, text)
    return text[:place] + text[place : place + draw.randint(1, 20)] * 2 + text[place:]


def insert(draw: Random, text: str) -> str:
    place = _place(draw, text)
    return text[:place] + draw.choice([*ODD, *'{}[]",:\\', "\n", ",,", "..."]) + text[place:]


def quotes(draw: Random, text: str) -> str:
    return text.replace('"', draw.choice(["'", "“", "`", '""', "", '\\"']))


def commas(draw: Random, text: str) -> str:
    return re.sub(r"(?=[}\]])", ",", text) if draw.random() < 0.7 else text.replace(",", " ")


def words(draw: Random, text: str) -> str:
    known = draw.choice([WORDS, FOREIGN])
    return _LITERAL.sub(lambda found: known[found[0]], text)


def _numbers(make: Callable[[str], str], draw: Random, text: str) -> str:
    return _NUMBER.sub(lambda found: make(found[0]) if draw.random() < 0.5 else found[0], text)


def number_texts(draw: Random, text: str) -> str:
    return _numbers(lambda number: f'"{number}"', draw, text)


def other_numbers(draw: Random, text: str) -> str:
    return _numbers(
        lambda number: draw.choice([f"{number}.0", f"-{number}", f"{number}e3", "NaN", "1e400", "9" * 400]), draw, text
    )


def values(draw: Random, text: str) -> str:
    return _each_value(draw, text, lambda _: draw.choice(ODD))


def _each_value(draw: Random, text: str, make: Callable[[str], str]) -> str:
    return re.sub(
        r'(?<=[:\[,])(?:"[^"]*"|[\w.+-]+)', lambda found: make(found[0]) if draw.random() < 0.3 else found[0], text
    )


def keys(draw: Random, text: str) -> str:
    others = ['"other"', '"value"', '""', '"key"', "a", '"item_9"', '"\\ud800"', '"__class__"']
    return _KEY.sub(lambda found: draw.choice(others) if draw.random() < 0.4 else found[0], text)


def twice(draw: Random, text: str) -> str:
    found = _KEY.search(text)
    return text if found is None else text[: found.start()] + f"{found[0]}:{draw.choice(ODD)}," + text[found.start() :]


def fewer(draw: Random, text: str) -> str:
    return re.sub(r'"[^"]*":[^,{}\[\]]*,?', lambda found: "" if draw.random() < 0.4 else found[0], text)


def pretty(draw: Random, text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=draw.choice([None, 1]), ensure_ascii=draw.random() < 0.5)
    except (ValueError, RecursionError):
        return text


def around(draw: Random, text: str) -> str:
    return (
        draw.choice(AROUND)
        .replace("{{", "\x01")
        .replace("}}", "\x02")
        .replace("{}", text)
        .replace("\x01", "{")
        .replace("\x02", "}")
    )


SPOILERS = [
    cut, cut, behead, flip, flip, drop, repeat, insert, insert, quotes, commas, words, number_texts, other_numbers,
    values, values, keys, twice, fewer, pretty, around, around, around,
]  # fmt: skip


def monster(draw: Random, text: str) -> str:
    """Make something huge; slow to read for whoever reads it twice."""
    size = draw.choice([10**4, 10**5])
    inner = draw.choice([
        "9" * size, "-" * size, "[" * size, "{" * size, '{"a":' * size, '{"value":' * size, "[" * size + "]" * size,
        '{"value":' * 300 + "1" + "}" * 300, "[]" * size, '"' * size, "'" * size, "\\" * size, "```" * size, "{'" * size,
        "<think>" * size, "[[" + "'a'," * size + "]]", '{"value":' + "9" * size + "}", "1e" + "9" * size, "0." + "0" * size,
        '["' + '","'.join("ab" for _ in range(size)) + '"]', "\x00" * size, "\ud800" * size, " " * size, "{ a " * size,
        '{"value":"' + "x" * 10**7 + '"}' if draw.random() < 0.1 else '{"value":"' + "ü" * size + '"}',
        '{"value":[' + "1," * size + "1]}", '{"value":[' + '{"a":1},' * (size // 4) + "{}]}", '{"a":1,' * size, "PT" + "9" * size + "S",
        text * (size // (len(text) + 1)), _KEY.sub(lambda found: f'"{"k" * size}"', text[:2000]), text + " " * size,
    ])  # fmt: skip
    return around(draw, inner) if draw.random() < 0.3 else inner


def nonsense(draw: Random) -> str:
    pieces = [*ODD, *"{}[]\",:'\\ \n", '{"value":', "```json\n", "```", "<think>", "</think>", '"a"', "a", "I think"]
    return "".join(draw.choices(pieces, k=draw.randrange(12)))


def spoiled(draw: Random, text: str) -> str:
    """Answer with something like `text`: as it is, a little wrong, very wrong, or nothing of the kind."""
    chance = draw.random()
    if chance < 0.1:
        return text
    if chance < 0.102:
        return monster(draw, text)
    if chance < 0.17:
        return nonsense(draw)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        text = draw.choice(SPOILERS)(draw, text)
    return text
