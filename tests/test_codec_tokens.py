"""The estimate leans to too many, knows scripts, and is made once per head."""

import pytest

from tanuki_async._codec.tokens import TURN, estimate, size
from tanuki_async._records import AnswerSchema, Head, Turn

ANSWER = AnswerSchema(name="f", schema={"type": "object"}, strict=True)


@pytest.mark.parametrize(
    ("text", "tokens"),  # as counted by the o200k tokenizer's users for such texts, roughly
    [
        ("", 0),
        ("The quick brown fox jumps over the lazy dog and runs away. " * 10, 130),
        ('{"value":{"name":"x","count":3}}' * 10, 90),
        ("Съешь же ещё этих мягких французских булок. " * 10, 120),
        ("敏捷的棕色狐狸跳过了懒狗" * 10, 110),
        ("빠른 갈색 여우가 게으른 개를 뛰어넘는다 " * 10, 140),
        ("🦊🐶" * 20, 45),
    ],
)
def test_the_estimate_is_no_less_than_the_tokens_and_not_far_more(text, tokens):
    assert tokens <= estimate(text) <= tokens * 2.5 + 2


def test_longer_text_is_never_fewer_tokens():
    text = "abc дом 猫 " * 50

    estimates = [estimate(text[:length]) for length in range(len(text))]

    assert estimates == sorted(estimates)


def test_a_prompt_is_its_head_its_examples_and_its_turns():
    head = Head(
        function="f", system="s" * 100, examples=(Turn("user", "u" * 50), Turn("assistant", "a" * 50)), answer=ANSWER
    )

    assert size(head, ()) == estimate("s" * 100) + 2 * estimate("u" * 50) + 3 * TURN
    assert size(head, (Turn("user", "x"),)) == size(head, ()) + estimate("x") + TURN


def test_a_head_that_is_gone_is_not_kept():
    import gc
    import weakref

    head = Head(function="f", system="s", answer=ANSWER)
    size(head, ())
    gone = weakref.ref(head)

    del head
    gc.collect()

    assert gone() is None
