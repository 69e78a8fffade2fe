"""Numbers and verdicts -> plain sentences for a report."""

import math
from collections.abc import Callable, Mapping

from vestige.claims.evidence import Sample, name_seeds
from vestige.claims.rules import Judged
from vestige.claims.terms import Claim, Direction, Unit, Verdict
from vestige.stats.intervals import Interval

MORE_LINEAR = "more linear, not close to linear"
MORE_LINEAR_ONLY = "more linear, not shown to be close to linear"
CLOSE_THROUGHOUT = "more linear, and close to linear, but not shown to be less close at the end"
TIMING_MATTERS = "the timing of the regulariser matters; selectivity not shown to be the cause"
INDEX_ONLY = "the index recedes, the class information does not"
UNCORRECTED = ", before correction for the number of claims"


def clause_sentence(judged: Judged) -> str:
    """What the estimate of a clause says, with its interval and number of seeds; no verdict, no full stop."""
    clause = judged.clause
    if judged.verdict is Verdict.NOT_MEASURED:
        return f"{clause.statistic} is not measured ({judged.sample.missing})"
    upper = judged.upper if clause.direction == Direction.BELOW else None
    return fill(clause.sentence, amount(judged.interval, clause.unit, upper))


def fill(sentence: str, text: str) -> str:
    """Put the text in the sentence's place for it; condition names may hold braces of their own."""
    return text.join(sentence.rsplit("{}", 1))


def amount(interval: Interval, unit: Unit | str, upper: float | None = None) -> str:
    """`2.05 times (95% CI 1.60 to 2.60, 5 seeds)`, as the unit has it."""
    shown, suffix = _FORMATS.get(unit) or ("{:.3g}".format, f" {unit}" if unit else "")
    seeds = f"{interval.n} seed{'s' if interval.n != 1 else ''}"
    if interval.n < 2:
        return f"{shown(interval.estimate)}{suffix} ({seeds})"
    ends = f"95% CI {shown(interval.low)} to {shown(interval.high)}"
    if upper is not None:
        ends += f", one-sided upper end {shown(upper)}"
    return f"{shown(interval.estimate)}{suffix} ({ends}, {seeds})"


def note(sample: Sample) -> str:
    """What a reader of a number must know: why it is missing, seeds left out, equal values, its own note."""
    if sample.missing:
        return sample.missing
    values = list(sample.values.values())
    parts = [
        f"left out: {name_seeds(sample.left_out)}" if sample.left_out else "",
        "all seeds have the same value" if len(values) > 1 and len(set(values)) == 1 else "",
        sample.note,
    ]
    return "; ".join(part for part in parts if part)


def composite(claim: Claim, verdicts: Mapping[str, Verdict], beside: Mapping[str, str | None]) -> str:
    """The finding that is registered by name for a claim that holds in part; empty where none applies.

    Args:
      claim: the claim.
      verdicts: of its clauses, by id.
      beside: verdicts of the numbers beside it, by id.
    """
    held = {name for name, verdict in verdicts.items() if verdict is Verdict.SUPPORTED}
    refuted = {Verdict.NOT_SUPPORTED, Verdict.CONTRADICTED}
    match claim.id:
        case "C1" if "C1.fall" in held and beside["C1.eta2-fall"] in refuted:
            return INDEX_ONLY
        case "C3" if "C3.a" in held and not {"C3.b.level", "C3.b.above-final"} <= held:
            if "C3.b.level" in held:
                return CLOSE_THROUGHOUT
            return MORE_LINEAR if verdicts["C3.b.level"] in refuted else MORE_LINEAR_ONLY
        case "C4" if {"C4.a", "C4.b", "C4.c"} <= held and "C4.d" not in held:
            return TIMING_MATTERS
    return ""


CARRYING = {
    INDEX_ONLY: ("C1.fall",),
    MORE_LINEAR: ("C3.a",),
    MORE_LINEAR_ONLY: ("C3.a",),
    CLOSE_THROUGHOUT: ("C3.a", "C3.b.level"),
    TIMING_MATTERS: ("C4.a", "C4.b", "C4.c"),
}
"""The clauses that a finding says to hold: it is as sure as they are."""


def claim_sentence(
    claim: Claim,
    verdict: Verdict,
    found: str,
    sentences: Mapping[str, str],
    verdicts: Mapping[str, Verdict],
    why: str = "",
) -> str:
    """A claim's verdict in a sentence or two, the clauses that decide it spelt out.

    Args:
      claim: the claim.
      verdict: of the claim.
      found: its named composite finding, or empty.
      sentences: of each clause, by its id.
      verdicts: of each clause, by its id.
      why: what else than the clauses decided it.
    """
    finding = f" ({found})" if found else ""
    if verdict is Verdict.SUPPORTED:
        return f"{claim.statement}{finding}: {'; '.join([*sentences.values(), *([why] if why else [])])}."
    deciding = [name for name in verdicts if verdicts[name] is verdict] or [
        name for name in verdicts if verdicts[name] is not Verdict.SUPPORTED
    ]
    spelt = "; ".join([*(sentences[name] for name in deciding), *([why] if why else [])])
    return f"{_LEADS[verdict]}{finding}: {spelt or claim.statement}."


def _times(value: float) -> str:
    return f"{math.exp(value):.2f}"


def _points(value: float) -> str:
    return f"{100 * value:z.1f}"


_LEADS = {
    Verdict.CONTRADICTED: "The claim is contradicted",
    Verdict.NOT_SUPPORTED: "The claim is not supported",
    Verdict.INCONCLUSIVE: "The claim stays open",
    Verdict.FEW_SEEDS: "Fewer than 3 seeds cannot support a claim",
    Verdict.NOT_MEASURED: "Not measured",
}
_FORMATS: dict[str, tuple[Callable[[float], str], str]] = {
    Unit.LN_RATIO: (_times, " times"),
    Unit.CSI: ("{:z.3f}".format, ""),
    Unit.AREA: ("{:z.3f}".format, ""),
    Unit.SHARE: ("{:z.2f}".format, ""),
    Unit.ACCURACY: (_points, " points"),
    Unit.STEPS: ("{:z.0f}".format, ""),
}
