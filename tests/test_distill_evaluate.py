"""Bounds are exact, thresholds keep their promise, audits revert a drift and little else."""

from __future__ import annotations

import math
from random import Random

import pytest

from tanuki_async._distill.evaluate import (
    FALSE_REVERT,
    Audits,
    alpha_of_look,
    audit,
    chance_of_as_many,
    lower_bound,
    must_revert,
    prove,
    upper_bound,
)
from tanuki_async.students import Verdict


def tail(agreed: int, asked: int, share: float) -> float:
    """Sum the binomial terms one by one, as the definition says."""
    return math.fsum(math.comb(asked, k) * share**k * (1 - share) ** (asked - k) for k in range(agreed, asked + 1))


@pytest.mark.parametrize(("agreed", "asked"), [(0, 7), (1, 7), (7, 7), (18, 20), (171, 190), (399, 400)])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99])
def test_the_chance_of_as_many_is_the_binomial_tail(agreed: int, asked: int, share: float) -> None:
    assert chance_of_as_many(agreed, asked, share) == pytest.approx(tail(agreed, asked, share), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("agreed", "asked"), [(1, 7), (18, 20), (171, 190), (4_900, 5_000)])
def test_at_the_lower_bound_as_many_agree_with_chance_alpha(agreed: int, asked: int) -> None:
    bound = lower_bound(agreed, asked, 0.05)

    assert chance_of_as_many(agreed, asked, bound) == pytest.approx(0.05, rel=1e-6)
    assert bound < agreed / asked < upper_bound(agreed, asked, 0.05)


def test_all_agreeing_gives_the_bound_known_in_closed_form() -> None:
    assert lower_bound(29, 29, 0.05) == pytest.approx(0.05 ** (1 / 29))
    assert lower_bound(0, 5, 0.05) == 0.0
    assert upper_bound(5, 5, 0.05) == 1.0


def test_all_looks_together_spend_no_more_than_the_error() -> None:
    assert math.fsum(alpha_of_look(look, 0.95) for look in range(200)) <= 0.05 + 1e-12


def test_a_good_student_is_proved_and_told_by_its_threshold() -> None:
    verdicts = [Verdict(score, score > 0.1) for score in [place / 400 for place in range(400)]]

    proof = prove(verdicts, min_agreement=0.9, alpha=0.025)

    assert not isinstance(proof, str)
    assert proof.agreement >= 0.95
    assert proof.bound >= 0.9
    served = [verdict for verdict in verdicts if verdict.score >= proof.threshold]
    assert proof.coverage == len(served) / 400
    assert proof.agreement == sum(verdict.agreed for verdict in served) / len(served)


def test_a_guessing_student_is_not_proved_and_the_reason_has_numbers() -> None:
    random = Random(1)

    reason = prove([Verdict(random.random(), random.random() < 0.7) for _ in range(400)], min_agreement=0.9, alpha=0.05)

    assert isinstance(reason, str)
    assert "not enough to prove 90%" in reason


def test_too_few_inputs_are_named_as_the_reason() -> None:
    assert prove([Verdict(1.0, True)] * 30, min_agreement=0.9, alpha=0.025) == (
        "30 held-out inputs are too few to prove an agreement of 90%; 46 could be enough"
    )


def test_inputs_the_student_never_answers_are_not_served() -> None:
    verdicts = [Verdict(1.0, True)] * 200 + [Verdict(-math.inf, True)] * 200

    proof = prove(verdicts, min_agreement=0.9, alpha=0.025)

    assert not isinstance(proof, str)
    assert proof.coverage == 0.5


def test_equal_scores_are_served_together() -> None:
    verdicts = [Verdict(0.5, place % 10 != 0) for place in range(400)]

    proof = prove(verdicts, min_agreement=0.8, alpha=0.05)

    assert not isinstance(proof, str)
    assert proof.coverage == 1.0


def test_a_student_below_the_promise_is_rarely_served() -> None:
    # Sure answers are a little better than unsure ones, and the best of them are just not good enough.
    served = 0
    for seed in range(300):
        random = Random(seed)
        scores = [random.random() for _ in range(300)]
        verdicts = [Verdict(score, random.random() < 0.70 + 0.195 * score) for score in scores]
        served += not isinstance(prove(verdicts, min_agreement=0.9, alpha=0.05), str)
    assert served <= 15


def follow(agreement: float, *, audits: int, seed: int, seen: Audits | None = None) -> int | None:
    """Audit a student of a true agreement; return after how many audits it is reverted."""
    random, seen = Random(seed), seen or Audits()
    for count in range(1, audits + 1):
        seen = audit(seen, agreed=random.random() < agreement, min_agreement=0.9)
        if must_revert(seen):
            return count
    return None


def test_a_useless_student_is_reverted_within_a_handful_of_audits() -> None:
    assert max(follow(0.0, audits=20, seed=seed) or 99 for seed in range(5)) <= 6


def test_a_drift_is_found_as_fast_after_a_long_good_time() -> None:
    found = []
    for seed in range(20):
        seen, random = Audits(), Random(seed)
        for _ in range(1_000):
            seen = audit(seen, agreed=random.random() < 0.98, min_agreement=0.9)
        found.append(follow(0.6, audits=500, seed=seed, seen=seen) or 500)
    assert sorted(found)[10] <= 30


def test_a_student_that_keeps_its_promise_is_hardly_ever_reverted() -> None:
    reverted = sum(follow(0.95, audits=2_000, seed=seed) is not None for seed in range(20))

    assert reverted == 0


def test_a_student_at_its_very_bound_lasts_as_long_as_promised() -> None:
    lives = [follow(0.9, audits=4_000, seed=seed) or 4_000 for seed in range(30)]

    assert sum(lives) / len(lives) >= 1 / FALSE_REVERT


def test_a_fault_counts_as_a_disagreement_but_not_as_an_audit() -> None:
    seen = audit(audit(Audits(), agreed=True, min_agreement=0.9), agreed=False, fault=True, min_agreement=0.9)

    assert (seen.asked, seen.agreed, seen.faults) == (1, 1, 1)
    assert max(seen.evidence) > 0


def test_as_many_as_could_be_enough_are_enough() -> None:
    assert not isinstance(prove([Verdict(1.0, True)] * 46, min_agreement=0.9, alpha=0.025), str)
    assert isinstance(prove([Verdict(1.0, True)] * 45, min_agreement=0.9, alpha=0.025), str)


def test_certainty_cannot_be_proved_and_nothing_need_not_be() -> None:
    assert "cannot be proved" in str(prove([Verdict(1.0, True)] * 500, min_agreement=1.0, alpha=0.025))
    assert not isinstance(prove([Verdict(1.0, False)] * 50, min_agreement=0.0, alpha=0.025), str)
