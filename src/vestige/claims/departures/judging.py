"""Faithful against corrected: each known departure of the released code, and whether it changes a verdict."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from vestige.claims.curves import Material
from vestige.claims.departures.known import KNOWN, TOKENS
from vestige.claims.departures.terms import Case, Departure, Made
from vestige.claims.evidence import Sample
from vestige.claims.registry import registered
from vestige.claims.rules import Judged, claim_verdict, judge_clause, worst_p
from vestige.claims.sentences import note
from vestige.claims.terms import Claim, Direction, Verdict
from vestige.claims.verdicts import CHECKS, EVIDENCE, check, checked_seeds
from vestige.config import StudyConfig
from vestige.stats.corrections import holm

SCHEMA: dict[str, Any] = {
    "departure": pl.String,
    "claim": pl.String,
    "clause": pl.String,
    "title": pl.String,
    "against": pl.String,  # what it is compared with
    "unit": pl.String,
    "direction": pl.String,
    "smallest_effect": pl.Float64,
    **{
        f"{side}{name}": dtype
        for side in ("reference_", "")
        for name, dtype in (
            ("statistic", pl.String),
            ("estimate", pl.Float64),
            ("low", pl.Float64),  # 95%, two-sided
            ("high", pl.Float64),
            ("upper", pl.Float64),  # 95%, one-sided
            ("n", pl.Int64),  # seeds, or neurons of all seeds
            ("verdict", pl.String),
        )
    },
    "changes": pl.Boolean,  # null: nothing to compare
    "reference_claim_verdict": pl.String,
    "claim_verdict": pl.String,
    "claim_changes": pl.Boolean,
    "note": pl.String,
}
"""Of the table of departures, a row a departure and clause that it touches."""
_UNMEASURED = (Verdict.NOT_MEASURED.value, None)


def judge_departures(
    study: StudyConfig,
    tables: Mapping[str, pl.DataFrame],
    claims: Mapping[str, Any],
    *,
    classes: int | None = None,
) -> list[dict[str, Any]]:
    """Make each known departure of the released code alone, and judge the claim that it touches.

    Args:
      study: the study; without `claims` there is nothing to judge.
      tables: by kind, of all protocols, as for `judge_study`.
      claims: what `judge_study` returns: the other claims are needed for Holm's correction.
      classes: number of classes.

    Returns:
      for each departure `{id, claim, title, released, corrected, against, note, verdicts: [under `against`, with it],
      changes, clauses: [{id, statistic, ..., reference: {...}, verdict, changes}]}`. `changes` is None where one of
      the sides is not measured. The departure "whole" makes all that a claim's table allows at once.
    """
    if study.claims is None:
        return []
    material = Material.of(study, tables, classes)
    of_study = {claim.id: claim for claim in registered(study)}
    samples = {name: sample for id_ in of_study for name, sample in EVIDENCE[id_](material).items()}
    case = Case(material, tables, of_study, samples)
    p_values = {claim["id"]: claim["p_value"] for claim in claims["claims"] if claim["id"] in of_study}
    known = (*([TOKENS] if "vit" in study.model.name.lower() else []), *KNOWN)
    return [_record(case, departure, p_values) for departure in known if departure.claim in of_study]


def departures_table(departures: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """One table of them all, with the columns of `SCHEMA`."""
    return pl.DataFrame([row for one in departures for row in _rows(one)], schema=SCHEMA, orient="row")


def _rows(one: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    before, after = one["verdicts"]
    for clause in one["clauses"]:
        yield {
            "departure": one["id"],
            "claim": one["claim"],
            "clause": clause["id"],
            "title": one["title"],
            "against": one["against"],
            **{name: clause[name] for name in ("unit", "direction", "smallest_effect", "changes")},
            **{f"reference_{name}": value for name, value in clause["reference"].items()},
            **clause["departed"],
            "reference_claim_verdict": before,
            "claim_verdict": after,
            "claim_changes": _differ(before, after),
            "note": "; ".join(dict.fromkeys(part for part in (one["note"], clause["note"]) if part)),
        }


def _record(case: Case, departure: Departure, p_values: Mapping[str, float | None]) -> dict[str, Any]:
    made, claim = departure.make(case), case.claims[departure.claim]
    if made.missing:
        made = Made(samples={name: Sample(missing=made.missing) for name in departure.touches}, missing=made.missing)
    reference = made.reference if made.reference is not None else {n: case.samples[n] for n in made.samples}
    dropped = made.dropped if made.reference is not None else ()
    before = _judged(case, claim, Made(samples=reference, clauses=made.reference_clauses, dropped=dropped))
    after = _judged(case, claim, made)
    verdicts = (
        _claim_verdict(case, claim, before, {}, p_values),
        Verdict.NOT_MEASURED if made.missing else _claim_verdict(case, claim, after, made.checks, p_values),
    )
    sides = {one.clause.id: one for one in after}
    touched = [
        _clause(one, sides[one.clause.id])
        for one in before
        if one.clause.id in made.samples and one.clause.id in sides
        if one.clause.id in departure.touches
    ]
    known = [clause["changes"] for clause in touched if clause["changes"] is not None]
    return {
        "id": departure.id,
        "claim": departure.claim,
        "title": departure.title,
        "released": departure.released,
        "corrected": departure.corrected,
        "against": made.against,
        "note": made.missing or made.note,
        "verdicts": [verdict.value for verdict in verdicts],
        "changes": any([*known, _differ(*verdicts)]) if known else None,
        "clauses": touched,
    }


def _judged(case: Case, claim: Claim, made: Made) -> list[Judged]:
    """The clauses of a claim, some of them with other samples, or in the place of others; or left out."""
    return [
        judge_clause(made.clauses.get(clause.id, clause), made.samples.get(clause.id, case.samples[clause.id]))
        for clause in claim.clauses
        if clause.id not in made.dropped
    ]


def _claim_verdict(
    case: Case,
    claim: Claim,
    judged: Sequence[Judged],
    checks: Mapping[str, Sample],
    p_values: Mapping[str, float | None],
) -> Verdict:
    """As `judge_study` has it, this claim's p value among those of the others."""
    own = worst_p(judged)
    family = {**p_values, claim.id: None if math.isnan(own) else own}
    adjusted = dict(zip(family, holm([1.0 if p is None else p for p in family.values()]), strict=True))
    verdict = claim_verdict([one.verdict for one in judged], adjusted[claim.id])
    decided = (Verdict.FEW_SEEDS, Verdict.NOT_MEASURED)
    if claim.id == "C4" and verdict not in decided:
        seeds = checked_seeds(judged)
        states = [check(checks.get(name, case.samples[name]), seeds) for name in CHECKS]
        return verdict if set(states) == {"holds"} else Verdict.INCONCLUSIVE
    return verdict


def _clause(before: Judged, after: Judged) -> dict[str, Any]:
    clause = after.clause
    return {
        "id": clause.id,
        "unit": str(clause.unit),
        "direction": clause.direction.value,
        "smallest_effect": clause.smallest_effect,
        "reference": _side(before),
        "departed": _side(after),
        "changes": _differ(before.verdict, after.verdict),
        "note": note(after.sample),
    }


def _side(judged: Judged) -> dict[str, Any]:
    interval = judged.interval
    numbers = {
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "upper": judged.upper if judged.clause.direction == Direction.BELOW else math.nan,
    }
    return {
        "statistic": judged.clause.statistic,
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
        "n": interval.n,
        "verdict": judged.verdict.value,
    }


def _differ(before: str, after: str) -> bool | None:
    return None if before in _UNMEASURED or after in _UNMEASURED else before != after
