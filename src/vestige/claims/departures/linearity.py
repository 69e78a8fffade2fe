"""C3 as the released code would have it: correlation between layers, with a departure each."""

from dataclasses import replace

import polars as pl

from vestige.claims.curves import Curves, linearity_curves
from vestige.claims.departures.numbers import begun
from vestige.claims.departures.terms import Case, Made
from vestige.claims.evidence import Sample, both, collect, early_mean, final_value, log_ratio, why_absent
from vestige.claims.linearity import judgeable_steps
from vestige.claims.terms import Clause, Unit


def correlation(case: Case) -> Made:
    """The cross-layer correlation of the most active channels, in the place of C3's clauses."""
    return _correlated(case, _ratio(case, "top"), "the most active channels")


def active_channels(case: Case) -> Made:
    """The most active channels, against those of highest CSI."""
    reference = _ratio(case, "csi")
    found = _correlated(case, _ratio(case, "top"), "the most active channels")
    if found.missing or not reference.values:
        return Made(missing=found.missing or reference.missing)
    against = _correlated(case, reference, "the channels of highest CSI")
    return _against(found, against, "correlation of the channels of highest CSI")


def no_anchor(case: Case) -> Made:
    """The correlation as it is, against the correlation over that of the network without ReLUs."""
    reference = _ratio(case, "top", anchored=True)
    found = _correlated(case, _ratio(case, "top"), "the most active channels")
    if found.missing or not reference.values:
        return Made(missing=found.missing or reference.missing)
    against = _correlated(case, reference, "the most active channels, over that of its anchor,")
    return _against(found, against, "correlation over that of its anchor")


def whole_linearity(case: Case) -> Made:
    """The correlation over all early checkpoints."""
    said = "batch-norm statistics are recomputed: linearity has no faithful table"
    return replace(_correlated(case, _ratio(case, "top", judged=False), "the most active channels"), note=said)


def _ratio(case: Case, kind: str, *, anchored: bool = False, judged: bool = True) -> Sample:
    """ln of the correlation early over that at the end, averaged over k."""
    material, last = case.material, case.material.last_step
    rows = material.rows("linearity", case.baseline)
    measures = sorted(m for m in rows["measure"].unique() if m.removeprefix(f"correlation-{kind}").isdigit())
    if rows.is_empty() or last is None:
        return Sample(missing=why_absent(material.study, "linearity", case.baseline))
    if not measures:
        return Sample(missing=f"not measured: the linearity table has no correlation-{kind}<k>")
    if anchored:
        rows = rows.with_columns(pl.col("value") / pl.col("anchor"))
    curves = _averaged([linearity_curves(rows, measure, "all") for measure in measures])
    among, note = judgeable_steps(material) if judged else (None, "")
    curves = curves if judged else begun(curves)
    lack = "no correlation"
    early = early_mean(material, curves, lack, among)
    return collect(material.study.seeds, both(early, final_value(curves, last, lack), log_ratio), note)


def _averaged(several: list[Curves]) -> Curves:
    first, *others = several
    return {
        seed: {
            step: sum(curves[seed][step] for curves in several) / len(several)
            for step in curve
            if all(step in curves.get(seed, {}) for curves in others)
        }
        for seed, curve in first.items()
    }


def _correlated(case: Case, sample: Sample, channels: str) -> Made:
    """C3 judged on a correlation alone."""
    if not sample.values:
        return Made(missing=sample.missing)
    clause = Clause(
        id="C3.a",
        statistic="ln correlation(early)/correlation(T)",
        unit=Unit.LN_RATIO,
        smallest_effect=_smallest(case, "C3.a"),
        sentence=f"early the correlation of {channels} between layers is {{}} that at the end",
    )
    return Made(
        samples={"C3.a": sample},
        clauses={"C3.a": clause},
        dropped=("C3.b.level", "C3.b.above-final"),
    )


def _smallest(case: Case, clause: str) -> float:
    return next(one.smallest_effect for one in case.claims["C3"].clauses if one.id == clause)


def _against(found: Made, reference: Made, name: str) -> Made:
    return replace(found, against=name, reference=reference.samples, reference_clauses=reference.clauses)
