"""How sure may we be that a student agrees with its teacher: exact bounds, honest about looking more than once."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tanuki_async.students import Gain, Verdict

CONFIDENCE = 0.95
"""How sure a promise is. Over the whole life of one function it is broken with at most the remaining chance."""

STARTS = (1 / 2, 1 / 4, 1 / 8)
"""Shares of the held-out inputs at which the search for a threshold starts, each with its part of the error."""

LUCK = 0.5
"""Standard deviations by which a threshold must exceed the aim: the laxest of many owes about that much to luck."""

STEPS = 40
"""Thresholds tried from a start to answering everything."""

FALSE_REVERT = 1e-3
"""A student exactly at its bound is taken back on average after at least 1 / FALSE_REVERT audits."""

RISES = (0.05, 0.15, 0.45)
"""The audit listens for errors above the bound by these shares of the agreement that is left to lose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was proved about a student's answers at one threshold of its own confidence."""

    threshold: float
    agreement: float  # seen on the held-out inputs that it would answer
    bound: float  # exact lower bound of that agreement, at the level that this look could spend
    coverage: float  # share of held-out inputs that it would answer
    held_out: int
    baseline: float | None = None  # the agreement without the student, where that is the question

    @property
    def seen(self) -> str:
        """What was seen, in words."""
        if self.baseline is None:
            return (
                f"agreed on {self.agreement:.1%} of the {self.coverage:.0%} of {self.held_out} held-out inputs that it "
                "would answer"
            )
        return (
            f"of {self.held_out} held-out pairs, an alike one was closer than another in {self.agreement:.1%} of "
            f"comparisons, {self.baseline:.1%} without the adapter"
        )


def lower_bound(agreed: int, asked: int, alpha: float) -> float:
    """Return the exact one-sided lower bound of Clopper and Pearson (1934) on a share, wrong with chance `alpha`."""
    if agreed <= 0:
        return 0.0
    return _root(lambda share: _beta(agreed, asked - agreed + 1, share) - alpha)


def upper_bound(agreed: int, asked: int, alpha: float) -> float:
    """Return the exact one-sided upper bound of Clopper and Pearson on a share, wrong with chance `alpha`."""
    return 1.0 - lower_bound(asked - agreed, asked, alpha)


def chance_of_as_many(agreed: int, asked: int, share: float) -> float:
    """Return the chance of `agreed` or more out of `asked` when each agrees with chance `share`."""
    return 1.0 if agreed <= 0 else _beta(agreed, asked - agreed + 1, share)


def alpha_of_look(look: int, confidence: float = CONFIDENCE) -> float:
    """Return what the look number `look` (from 0) may spend: halves, so that all looks together keep the promise."""
    return (1.0 - confidence) / 2.0 ** (look + 1)


def aim_of(min_agreement: float) -> float:
    """Return the agreement that a threshold must show beyond proving `min_agreement`: halfway from there to 1.

    A bound is only the worst that may be true; this is what users get on an ordinary day.
    """
    return (1.0 + min_agreement) / 2.0


def prove(verdicts: Sequence[Verdict], *, min_agreement: float, alpha: float) -> Proof | str:
    """Find the laxest threshold at which agreement is at least `min_agreement`, or say why there is none.

    Fixed-sequence testing (Angelopoulos, Bates, Candès, Jordan, Lei: Learn then Test, 2021): from each start,
    thresholds are tested from strict to lax, each at the whole level of its chain, and the chain ends at the first
    failure. So a wrong threshold is accepted with chance at most `alpha`, however many were tried. Thresholds are
    shares of the inputs, fixed before anything is known about agreement. Among the accepted ones we may choose
    freely: the laxest that also reaches `aim_of(min_agreement)`, not by luck, or, where none does, the strictest.
    """
    ranked = sorted((v for v in verdicts if v.score > -math.inf), key=lambda v: -v.score)
    total = len(verdicts)
    agreed = [0]
    for verdict in ranked:
        agreed.append(agreed[-1] + verdict.agreed)
    level = alpha / len(STARTS)
    accepted: set[int] = set()
    for start in STARTS:
        for served in _sizes(ranked, max(math.ceil(start * total), fewest(min_agreement, level))):
            if min_agreement > 0.0 and chance_of_as_many(agreed[served], served, min_agreement) > level:
                break
            accepted.add(served)
    if not accepted:
        return _why_not(agreed, total, min_agreement, level)
    aim = aim_of(min_agreement)
    good = [served for served in accepted if agreed[served] >= aim * served + LUCK * _deviation(served, aim)]
    served = max(good) if good else min(accepted)
    return Proof(
        threshold=ranked[served - 1].score,
        agreement=agreed[served] / served,
        bound=max(min_agreement, lower_bound(agreed[served], served, level)),
        coverage=served / total,
        held_out=total,
    )


FEWEST_TEXTS = 30
"""Held-out texts without which nothing is known of how much a gain varies."""


def prove_gain(gain: Gain, *, alpha: float) -> Proof | str:
    """Show that an adapter orders pairs better than the model alone, wrong with chance `alpha`, or say why not.

    Student's t of the gain by its jackknife deviation. The bound is what was seen without the adapter and the lower
    bound of the gain on top.
    """
    if gain.texts < FEWEST_TEXTS:
        return f"pairs with {gain.texts} held-out texts are too few; {FEWEST_TEXTS} could be enough"
    deviation = max(gain.deviation, 1.0 / gain.texts)  # a sample in which nothing varies says little of what may
    least = gain.after - gain.before - t_quantile(alpha, gain.texts - 1) * deviation
    proof = Proof(
        threshold=0.0,
        agreement=gain.after,
        bound=gain.before + least,
        coverage=1.0,
        held_out=gain.pairs,
        baseline=gain.before,
    )
    return proof if least > 0.0 else f"{proof.seen}: not enough to prove that it is better"


def t_quantile(alpha: float, freedom: int) -> float:
    """Return what Student's t exceeds with chance `alpha` (below one half)."""
    share = _root(lambda x: 0.5 * _beta(freedom / 2.0, 0.5, x) - alpha)
    return math.sqrt(freedom * (1.0 - share) / share)


def _deviation(served: int, share: float) -> float:
    """Return by how many out of `served` the number of agreeing ones varies."""
    return math.sqrt(served * share * (1.0 - share))


def _sizes(ranked: Sequence[Verdict], start: int) -> list[int]:
    """Return how many of the surest inputs each threshold serves; equal scores are served together."""
    total, sizes = len(ranked), list[int]()
    if start < 1 or start > total:
        return sizes
    for step in range(STEPS + 1):
        served = start + round((total - start) * step / STEPS)
        while served < total and ranked[served].score == ranked[served - 1].score:
            served += 1
        if not sizes or served > sizes[-1]:
            sizes.append(served)
    return sizes


def fewest_of(min_agreement: float, alpha: float) -> int:
    """Return how many held-out inputs could be enough to prove the agreement."""
    return fewest(min_agreement, alpha / len(STARTS))


def fewest(min_agreement: float, level: float) -> int:
    """Return how many inputs prove the agreement when all agree: no threshold that serves fewer can be accepted."""
    if min_agreement <= 0.0:
        return 1
    return math.ceil(math.log(level) / math.log(min_agreement)) if min_agreement < 1.0 else sys.maxsize


def _why_not(agreed: Sequence[int], total: int, min_agreement: float, level: float) -> str:
    needed = fewest(min_agreement, level)
    if min_agreement >= 1.0:
        return "an agreement of 100% cannot be proved from examples; choose a smaller min_agreement"
    if total < needed:
        return (
            f"{total} held-out inputs are too few to prove an agreement of {min_agreement:.0%}; "
            f"{needed} could be enough"
        )
    served = len(agreed) - 1
    seen = agreed[-1] / served if served else 0.0
    half = min(served, math.ceil(total * max(STARTS)))
    best = agreed[half] / half if half else 0.0
    return (
        f"agreement with the teacher was {seen:.1%} on {total} held-out inputs, {best:.1%} on the surest half: "
        f"not enough to prove {min_agreement:.0%}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Audits:
    """What auditing a serving student has shown since it began to serve.

    `evidence` holds one running log likelihood ratio per size of drift (see `audit`).
    """

    asked: int = 0
    agreed: int = 0
    faults: int = 0
    evidence: tuple[float, ...] = ()


def audit(seen: Audits, *, agreed: bool, min_agreement: float, fault: bool = False) -> Audits:
    """Add one audited answer. A fault (an answer that is not of the declared type) counts as a disagreement.

    One CUSUM (Page 1954) per entry of RISES; their mean is an e-detector (Shin, Ramdas, Rinaldo 2022): whatever the
    number of looks, a student whose agreement is at the bound or above is taken back, on average, not before
    1 / FALSE_REVERT audits. Old agreement is forgotten, so a drift after a long good time is found as fast as an early
    one. Audits are a share of the answers while faults are seen on all of them: faults revert sooner.
    """
    wrong = max(1.0 - min_agreement, 1e-4)
    before = seen.evidence if len(seen.evidence) == len(RISES) else (0.0,) * len(RISES)
    after: list[float] = []
    for rise, level in zip(RISES, before, strict=True):
        drifted = wrong + rise * (1.0 - wrong)
        step = math.log((1.0 - drifted) / (1.0 - wrong)) if agreed else math.log(drifted / wrong)
        after.append(max(0.0, level) + step)
    return Audits(
        asked=seen.asked + (not fault),
        agreed=seen.agreed + (agreed and not fault),
        faults=seen.faults + fault,
        evidence=tuple(after),
    )


def must_revert(seen: Audits) -> bool:
    """Tell whether the audits show that agreement fell below the bound."""
    if not seen.evidence:
        return False
    top = max(seen.evidence)
    mean = top + math.log(sum(math.exp(level - top) for level in seen.evidence) / len(seen.evidence))
    return mean >= -math.log(FALSE_REVERT)


def _root(function: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if function(middle) < 0.0 else (low, middle)
    return low


def _beta(a: float, b: float, x: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b), by the continued fraction of DLMF 8.17.22."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _beta(b, a, 1.0 - x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) / a * _fraction(a, b, x)


def _fraction(a: float, b: float, x: float) -> float:
    """Evaluate the fraction by Lentz's method, which needs no depth chosen beforehand."""
    tiny = 1e-300
    c, d = 1.0, 1.0 / ((1.0 - (a + b) * x / (a + 1.0)) or tiny)
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / ((1.0 + term * d) or tiny)
            c = (1.0 + term / c) or tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-14:
            return value
    return value
