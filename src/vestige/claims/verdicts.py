"""Tables -> `claims.json`: each claim with its clauses, numbers, verdicts and sentences.

`{version, note, early_window, last_step, classes, seeds, claims: [{id, own, title, statement, sentence, verdict,
finding, p_value, p_holm, note, clauses: [{id, statistic, unit, direction, smallest_effect, estimate, low,
high, upper, seeds, values, verdict, seeds_to_decide, detectable, p_value, sentence, note}], beside: [{id,
statistic, unit, estimate, low, high, seeds, values, verdict, sentence, note}]}]}`: intervals are 95%, `upper` is
one-sided, `values` go with `seeds`; `seeds_to_decide` and `detectable` are for a power of 80%.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from vestige.claims.causality import CUT, causality
from vestige.claims.curves import Material
from vestige.claims.evidence import Sample, emergence, importance
from vestige.claims.linearity import linearity
from vestige.claims.own import own_evidence
from vestige.claims.planning import detectable, seeds_to_decide
from vestige.claims.registry import own_claim, registered
from vestige.claims.rules import LEVEL, Judged, claim_verdict, judge_clause, worst_p
from vestige.claims.sentences import (
    CARRYING,
    UNCORRECTED,
    amount,
    claim_sentence,
    clause_sentence,
    composite,
    fill,
    note,
)
from vestige.claims.terms import Beside, Claim, Direction, Verdict
from vestige.config import StudyConfig
from vestige.stats.corrections import holm
from vestige.stats.effects import FLOAT32_SLACK
from vestige.stats.intervals import paired_t

CLAIMS_VERSION = 1
EVIDENCE = {"C1": emergence, "C2": importance, "C3": linearity, "C4": causality}
CHECKS = ("C4.cut.early", "C4.cut.late")
"""Numbers that decide whether the windows did what they are for: without them no finding of C4 means anything."""
CHECKED = ("C4.a", "C4.b", "C4.c")
"""The clauses on whose seeds they must."""


def judge_study(
    study: StudyConfig, tables: Mapping[str, pl.DataFrame], *, classes: int | None = None
) -> dict[str, Any]:
    """Judge a study's registered claims.

    Args:
      study: the study; without `claims` nothing is judged.
      tables: by kind: `selectivity`, `cumulative`, `linearity`, `history`, each with all conditions and seeds
        and the columns of `runs.tables`; a missing kind counts as empty.
      classes: number of classes; None: the largest preferred class among all neurons, plus one.

    Returns:
      The contents of `claims.json`: plain numbers, strings and lists, None for what is not a number.
    """
    if study.claims is None:
        return {"version": CLAIMS_VERSION, "note": "the study registers no claims", "claims": []}
    material = Material.of(study, tables, classes)
    samples = {claim.id: EVIDENCE[claim.id](material) for claim in registered(study)}
    samples |= {claim.id: own_evidence(claim, material, tables) for claim in study.claims.own}
    return {
        "version": CLAIMS_VERSION,
        "note": _warnings(material),
        "early_window": material.early_window,
        "last_step": material.last_step,
        "classes": material.classes,
        "seeds": list(study.seeds),
        "claims": [
            *_family(registered(study), samples),
            *_family([own_claim(claim) for claim in study.claims.own], samples),
        ],
    }


def _family(claims: Sequence[Claim], samples: Mapping[str, Mapping[str, Sample]]) -> Iterator[dict[str, Any]]:
    """Claims corrected for together: the registered ones, and the study's own, neither of which weakens the other."""
    judged = [[judge_clause(clause, samples[claim.id][clause.id]) for clause in claim.clauses] for claim in claims]
    p_values = [1.0 if math.isnan(p := worst_p(clauses)) else p for clauses in judged]
    for place, (claim, clauses, p_holm) in enumerate(zip(claims, judged, holm(p_values), strict=True)):

        def corrected(p: float, place: int = place) -> float:
            """A p value in the place of this claim's, by Holm's method."""
            return holm([*p_values[:place], p, *p_values[place + 1 :]])[place]

        yield _claim_record(claim, clauses, samples[claim.id], p_holm, corrected)


def _claim_record(
    claim: Claim,
    judged: Sequence[Judged],
    samples: Mapping[str, Sample],
    p_holm: float,
    corrected: Callable[[float], float],
) -> dict[str, Any]:
    verdicts = {one.clause.id: one.verdict for one in judged}
    seeds = checked_seeds(judged)
    aside = [_beside_record(item, samples[item.id], seeds) for item in claim.beside]
    verdict, why = _verdict(claim, judged, samples, p_holm)
    found = composite(claim, verdicts, {item["id"]: item["verdict"] for item in aside})
    if found and _failed_checks(claim, judged, samples):
        found = ""
    if found and corrected(worst_p([one for one in judged if one.clause.id in CARRYING[found]])) > LEVEL:
        found += UNCORRECTED
    clauses = [_clause_record(one) for one in judged]
    sentences = {clause["id"]: clause["sentence"] for clause in clauses}
    return {
        "id": claim.id,
        "own": claim.own,
        "title": claim.title,
        "statement": claim.statement,
        "sentence": claim_sentence(claim, verdict, found, sentences, verdicts, why),
        "verdict": verdict.value,
        "finding": found,
        "p_value": _number(worst_p(judged)),
        "p_holm": None if math.isnan(worst_p(judged)) else p_holm,
        "note": why,
        "clauses": clauses,
        "beside": aside,
    }


def _verdict(
    claim: Claim, judged: Sequence[Judged], samples: Mapping[str, Sample], p_holm: float
) -> tuple[Verdict, str]:
    """The claim's verdict, and what else than its clauses decided it."""
    verdicts = [one.verdict for one in judged]
    verdict = claim_verdict(verdicts, p_holm)
    notes = []
    if unmeasured := [one.clause.id for one in judged if one.verdict is Verdict.NOT_MEASURED]:
        notes.append(f"not measured: {', '.join(unmeasured)}")
    failed = _failed_checks(claim, judged, samples)
    if failed and verdict not in (Verdict.FEW_SEEDS, Verdict.NOT_MEASURED):
        verdict = Verdict.INCONCLUSIVE
        notes.append(f"manipulation check (m cut by {CUT:.0%} in both windows): {', '.join(failed)}")
    if verdict is Verdict.INCONCLUSIVE and set(verdicts) == {Verdict.SUPPORTED} and not notes:
        notes.append(f"every clause holds, but not after Holm's correction (p {p_holm:.2g})")
    notes += [one.sample.note for one in judged if one.clause.id == "C4.b" and one.sample.note]
    return verdict, "; ".join(notes)


def _failed_checks(claim: Claim, judged: Sequence[Judged], samples: Mapping[str, Sample]) -> list[str]:
    """C4's manipulation checks that do not hold."""
    if claim.id != "C4":
        return []
    seeds = checked_seeds(judged)
    return [f"{name}: {state}" for name in CHECKS if (state := check(samples[name], seeds)) != "holds"]


def checked_seeds(judged: Sequence[Judged]) -> set[int]:
    """The seeds that C4's verdict rests on: on each of them the manipulation must have been measured."""
    return {seed for one in judged if one.clause.id in CHECKED for seed in one.sample.values}


def check(sample: Sample, seeds: Collection[int]) -> str:
    """Whether a window cut m by 80%, on average over these seeds: `holds`, `fails` or `not measured`."""
    if not sample.values or not set(seeds) <= set(sample.values):
        return Verdict.NOT_MEASURED.value
    values = [sample.values[seed] for seed in seeds or sample.values]
    return "holds" if sum(values) / len(values) >= CUT - FLOAT32_SLACK else "fails"


def _clause_record(judged: Judged) -> dict[str, Any]:
    clause, interval = judged.clause, judged.interval
    return {
        "id": clause.id,
        "statistic": clause.statistic,
        "unit": str(clause.unit),
        "direction": clause.direction.value,
        "smallest_effect": clause.smallest_effect,
        "estimate": _number(interval.estimate),
        "low": _number(interval.low),
        "high": _number(interval.high),
        "upper": _number(judged.upper) if clause.direction == Direction.BELOW else None,
        "seeds": list(judged.sample.values),
        "values": list(judged.sample.values.values()),
        "verdict": judged.verdict.value,
        "seeds_to_decide": seeds_to_decide(judged),
        "detectable": _number(detectable(judged)),
        "p_value": _number(judged.p_value),
        "sentence": clause_sentence(judged),
        "note": note(judged.sample),
    }


def _beside_record(item: Beside, sample: Sample, seeds: Collection[int]) -> dict[str, Any]:
    interval = paired_t(list(sample.values.values()))
    verdict = None
    if item.as_clause is not None:
        verdict = judge_clause(item.as_clause, sample).verdict.value
    elif item.id in CHECKS:
        verdict = check(sample, seeds)
    sentence = fill(item.sentence, amount(interval, item.unit)) if sample.values else sample.missing
    return {
        "id": item.id,
        "statistic": item.statistic,
        "unit": item.unit.value,
        "estimate": _number(interval.estimate),
        "low": _number(interval.low),
        "high": _number(interval.high),
        "seeds": list(sample.values),
        "values": list(sample.values.values()),
        "verdict": verdict,
        "sentence": sentence,
        "note": note(sample),
    }


def _warnings(material: Material) -> str:
    """What holds for all claims: T is not the end of training, or the early window was not well chosen."""
    said = []
    baseline = material.rows("history", material.claims.roles.baseline)
    epoch, epochs = baseline["epoch"].max(), material.study.recipe.epochs
    if isinstance(epoch, float) and epoch < epochs - 1e-6:
        said.append(f"training of the baseline is at epoch {epoch:.4g} of {epochs}: T is not the end of training")
    if not material.claims.pilot_seeds:
        said.append("the early window was not taken from pilot seeds (claims.pilot_seeds is empty)")
    window, total = material.early_window, material.total_steps
    if window and total and 4 * window > total:
        said.append(f"the early window is {window / total:.0%} of training ({window} of {total} steps): over a quarter")
    return "; ".join(said)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
