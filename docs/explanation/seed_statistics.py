"""Simulate studies whose effects over seeds are known, judge them by vestige's rules, and write the page's tables.

python docs/explanation/seed_statistics.py

Shapes: D simulated studies (data sets), N seeds of each.
"""

import math
import platform
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

from vestige.claims.evidence import Sample
from vestige.claims.planning import chance_decided, chance_supported, detectable, seeds_to_decide
from vestige.claims.rules import Judged, judge_clause
from vestige.claims.terms import Clause, Direction, Unit, Verdict
from vestige.stats.bootstrap import bca, studentised
from vestige.stats.equivalence import non_inferiority
from vestige.stats.intervals import Interval, paired_t

PAGE = Path(__file__).with_name("seed-statistics.md")
SEEDS = (3, 5, 10)
STUDIES, BOOTSTRAPS, ERRORS, JUDGED, PILOTS = 20_000, 2_000, 10_000, 4_000, 600
LOWEST, HIGHEST = 0.93, 0.97
Rng = np.random.Generator
Draw = Callable[[Rng, tuple[int, int]], np.ndarray]
Method = Callable[[Sequence[float]], Interval]


@dataclass(frozen=True)
class Family:
    """How an effect is distributed over seeds.

    Attributes:
      name: as the tables have it.
      skewness: third central moment in units of the standard deviation.
      spread: standard deviation of what `draw` gives; its mean is 0.
      draw: so many studies of so many seeds, (D, N).
    """

    name: str
    skewness: float
    spread: float
    draw: Draw

    def standard(self, rng: Rng, studies: int, seeds: int) -> np.ndarray:
        """(D, N) effects of mean 0 and standard deviation 1."""
        return self.draw(rng, (studies, seeds)) / self.spread

    @property
    def mirrored(self) -> "Family":
        """The same with its long tail on the other side."""
        return Family(f"{self.name}, mirrored", -self.skewness, self.spread, lambda rng, shape: -self.draw(rng, shape))


def exponentials(ratio: float) -> Family:
    """The difference of two exponential outcomes, the first's spread being `ratio` times the second's."""
    name = "difference of two exponentials" + (f", spreads {ratio:g} : 1" if ratio != 1 else "")
    skewness = 2 * (ratio**3 - 1) / (ratio**2 + 1) ** 1.5
    return Family(
        name,
        skewness,
        math.hypot(ratio, 1),
        lambda rng, shape: ratio * (rng.exponential(size=shape) - 1) - (rng.exponential(size=shape) - 1),
    )


def lognormals(sigma: float) -> Family:
    """The difference of two lognormal outcomes."""
    variance = math.expm1(sigma**2) * math.exp(sigma**2)
    return Family(
        f"difference of two lognormals, sigma {sigma:g}",
        0.0,
        math.sqrt(2 * variance),
        lambda rng, shape: rng.lognormal(0, sigma, shape) - rng.lognormal(0, sigma, shape),
    )


def chi_square(degrees: int, note: str = "") -> Family:
    """A chi-square effect, its mean taken off."""
    name = f"chi-square, {degrees} degrees{note}"
    spread = math.sqrt(2 * degrees)
    return Family(name, math.sqrt(8 / degrees), spread, lambda rng, shape: rng.chisquare(degrees, shape) - degrees)


def lognormal(sigma: float) -> Family:
    """A lognormal effect, its mean taken off."""
    w = math.exp(sigma**2)
    return Family(
        f"lognormal, sigma {sigma:g}",
        (w + 2) * math.sqrt(w - 1),
        math.sqrt((w - 1) * w),
        lambda rng, shape: rng.lognormal(0, sigma, shape) - math.sqrt(w),
    )


def collapsing(share: float, fall: float) -> Family:
    """Normal, but a share of the runs falls by so many standard deviations."""
    spread = math.sqrt(1 + share * (1 - share) * fall**2)
    return Family(
        f"normal, one run in {1 / share:.0f} falls by {fall:g} SD",
        -share * (1 - share) * (1 - 2 * share) * fall**3 / spread**3,
        spread,
        lambda rng, shape: rng.normal(size=shape) - fall * (rng.random(shape) < share) + fall * share,
    )


NORMAL = Family("normal", 0.0, 1.0, lambda rng, shape: rng.normal(size=shape))
COVERED = (
    NORMAL,
    exponentials(1),
    exponentials(1.5),
    lognormals(0.5),
    lognormals(0.75),
    chi_square(32),
    chi_square(8),
    exponentials(2),
)
"""Effects of which t intervals are held to cover 93% to 97%: normal, differences, and skewed up to 1.25."""
BEYOND = (
    lognormals(1),
    chi_square(4),
    collapsing(0.1, 5),
    chi_square(2, ": exponential"),
    lognormal(1),
)
"""Effects of which they are not."""
METHODS: dict[str, tuple[Method, int]] = {
    "t": (paired_t, STUDIES),
    "studentised": (studentised, BOOTSTRAPS),
    "BCa": (bca, BOOTSTRAPS),
}


def generator(*key: object) -> Rng:
    """A generator of its own for everything that is simulated."""
    return np.random.default_rng([0, *("/".join(map(str, key)).encode())])


def coverage(method: Method, family: Family, seeds: int, studies: int) -> float:
    """How often an interval holds the true effect."""
    effects_DN = family.standard(generator("coverage", family.name, seeds), studies, seeds)
    intervals = map(method, effects_DN.tolist())
    return sum(interval.low <= 0 <= interval.high for interval in intervals) / studies


def wrongly_harmless(family: Family, seeds: int, studies: int) -> float:
    """How often a harm that is exactly the smallest that matters is said to be surely smaller."""
    harms_DN = 2 + family.standard(generator("harm", family.name, seeds), studies, seeds)
    return sum(non_inferiority(harms, 2).holds for harms in harms_DN.tolist()) / studies


def wrongly_above(family: Family, seeds: int, studies: int) -> float:
    """How often an interval is above 0 where there is no effect."""
    effects_DN = family.standard(generator("above", family.name, seeds), studies, seeds)
    return sum(paired_t(effects).low > 0 for effects in effects_DN.tolist()) / studies


def clause(direction: Direction) -> Clause:
    """A clause whose smallest effect is 1, in whose unit the tables are."""
    return Clause(id="C0.x", statistic="x", unit=Unit.SHARE, smallest_effect=1.0, sentence="{}", direction=direction)


def judged(direction: Direction, values: Sequence[float]) -> Judged:
    """A study's clause."""
    return judge_clause(clause(direction), Sample(dict(enumerate(values))))


def supported(direction: Direction, family: Family, effect: float, spread: float, seeds: int, studies: int) -> float:
    """How often the registered rule supports a clause."""
    rng = generator("power", direction, family.name, effect, spread, seeds)
    values_DN = effect + spread * family.standard(rng, studies, seeds)
    return sum(judged(direction, values).verdict is Verdict.SUPPORTED for values in values_DN.tolist()) / studies


def share(value: float) -> str:
    """A share in percent; bold where it is no cover of 93% to 97%."""
    text = f"{100 * value:.1f}"
    return text if LOWEST <= value <= HIGHEST else f"**{text}**"


def row(cells: Iterable[object]) -> str:
    """A row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def coverage_table() -> list[str]:
    """Coverage of every method."""
    heads = [f"{name}, n = {n}" for name in METHODS for n in SEEDS]
    lines = [row(["effects over seeds", "skewness", *heads]), "|---" * (len(heads) + 2) + "|"]
    for family in (*COVERED, *BEYOND):
        cells = [share(coverage(method, family, n, studies)) for method, studies in METHODS.values() for n in SEEDS]
        lines.append(row([family.name, f"{family.skewness:.2f}", *cells]))
    return lines


def width_table() -> list[str]:
    """How wide intervals of normal effects are, the median, in standard deviations on either side."""
    lines = [row(["interval", *(f"n = {n}" for n in SEEDS)]), "|---" * (len(SEEDS) + 1) + "|"]
    for name, (method, _) in METHODS.items():
        cells = []
        for n in SEEDS:
            effects_DN = NORMAL.standard(generator("width", n), BOOTSTRAPS, n)
            cells.append(f"{np.median([found.high - found.low for found in map(method, effects_DN.tolist())]) / 2:.2f}")
        lines.append(row([name, *(cell.replace("inf", "no ends") for cell in cells)]))
    return lines


def error_table() -> list[str]:
    """How often the rules err where there is exactly nothing to be shown."""
    heads = [f"{what}, n = {n}" for what in ("a harm of d called harmless", "no effect called one") for n in SEEDS]
    lines = [row(["effects over seeds", "skewness", *heads]), "|---" * (len(heads) + 2) + "|"]
    skewed = [family for family in (*COVERED, *BEYOND) if family.skewness]
    for family in (*(f for f in COVERED if not f.skewness), *(g for f in skewed for g in (f, f.mirrored))):
        errors = [of(family, n, ERRORS) for of in (wrongly_harmless, wrongly_above) for n in SEEDS]
        lines.append(row([family.name, f"{family.skewness:.2f}", *(f"{100 * error:.1f}" for error in errors)]))
    return lines


CASES = [
    *((Direction.AT_LEAST, effect, spread) for spread in (0.5, 1.0) for effect in (0.0, 0.5, 1.0, 2.0, 3.0)),
    *((Direction.BELOW, effect, spread) for spread in (0.5, 1.0) for effect in (0.0, 0.5, 1.0)),
    *((Direction.SURELY_AT_LEAST, effect, 0.5) for effect in (1.0, 2.0, 3.0)),
]
"""Direction, true effect and true spread, in units of the smallest effect d."""
SIMULATED = {"normal": NORMAL, "exponentials": exponentials(1), "skewness 1": chi_square(8)}


def power_table() -> list[str]:
    """What is predicted of the registered rules, and what is seen."""
    heads = [f"n = {n}: {what}" for n in SEEDS for what in ("predicted", *SIMULATED)]
    lines = [row(["expected", "true effect", "SD", *heads]), "|---" * (len(heads) + 3) + "|"]
    for direction, effect, spread in CASES:
        cells = []
        for n in SEEDS:
            cells.append(float(chance_supported(clause(direction), effect, spread, n)))
            cells += [supported(direction, family, effect, spread, n, JUDGED) for family in SIMULATED.values()]
        shown = [f"{effect:g} d", f"{spread:g} d", *(f"{100 * cell:.1f}" for cell in cells)]
        lines.append(row([f"{direction} d", *shown]))
    return lines


def plans(effect: float, spread: float, seeds: int, studies: int) -> list[int | None]:
    """What inconclusive studies are told: the seeds that would decide them."""
    rng = generator("plan", effect, spread, seeds)
    values_DN = effect + spread * NORMAL.standard(rng, studies, seeds)
    each = [judged(Direction.AT_LEAST, values) for values in values_DN.tolist()]
    return [seeds_to_decide(one) for one in each if one.verdict is Verdict.INCONCLUSIVE]


def planning_table() -> list[str]:
    """How good the advice of an inconclusive study is."""
    heads = ("true effect", "SD", "seeds", "inconclusive", "true need", "told: 10%", "median", "90%", "told none")
    lines = [row([*heads, "decided if followed"]), "|---" * (len(heads) + 1) + "|"]
    for effect, spread in ((0.25, 1.0), (2.0, 1.5)):
        rule = clause(Direction.AT_LEAST)
        need = next(n for n in range(3, 1000) if chance_decided(rule, effect, spread, n) >= 0.8)
        for n in SEEDS[:2]:
            told = plans(effect, spread, n, PILOTS)
            some = sorted(number for number in told if number is not None)
            decided = np.mean(chance_decided(rule, effect, spread, some))
            quantiles = [str(int(some[int(q * (len(some) - 1))])) for q in (0.1, 0.5, 0.9)]
            shares = [f"{len(told) / PILOTS:.0%}", str(need), *quantiles, f"{1 - len(some) / len(told):.0%}"]
            lines.append(row([f"{effect:g} d", f"{spread:g} d", n, *shares, f"{decided:.0%}"]))
    return lines


def detectable_table() -> list[str]:
    """The smallest effect that is supported in four of five studies, and how far a study's own spread misses it."""
    lines = [
        row(
            ["seeds", "smallest effect, d = 0", "d = 0.5 SD", "d = 2 SD", "told of itself, d = 0: 10%", "median", "90%"]
        ),
        "|---" * 7 + "|",
    ]
    for n in (3, 4, 5, 6, 8, 10, 20):
        known = NORMAL.standard(generator("one spread"), 1, n)[0]
        known = ((known - known.mean()) / known.std(ddof=1)).tolist()
        truths = [detectable(_with_effect(known, d)) for d in (0.0, 0.5, 2.0)]
        studies_DN = NORMAL.standard(generator("spread", n), PILOTS, n).tolist()
        told = np.quantile([detectable(_with_effect(values, 0.0)) for values in studies_DN], (0.1, 0.5, 0.9))
        lines.append(row([n, *(f"{number:.2f}" for number in (*truths, *told))]))
    return lines


def _with_effect(values: Sequence[float], d: float) -> Judged:
    rule = Clause(id="C0.x", statistic="x", unit=Unit.SHARE, smallest_effect=d, sentence="{}")
    return judge_clause(rule, Sample(dict(enumerate(values))))


def main() -> None:
    """Write every table between its markers in the page."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("vestige", "numpy", "scipy"))
    tables = {
        "about": [
            f"{date.today().isoformat()}; Python {platform.python_version()}, {libraries}; every share is of "
            f"{STUDIES:,} simulated studies, for the bootstraps of {BOOTSTRAPS:,}, for errors of {ERRORS:,}, for power "
            f"of {JUDGED:,}, for plans of {PILOTS:,}."
        ],
        "coverage": coverage_table(),
        "width": width_table(),
        "errors": error_table(),
        "power": power_table(),
        "detectable": detectable_table(),
        "planning": planning_table(),
    }
    page = PAGE.read_text()
    for name, lines in tables.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        text = "\n".join([begin, "", *lines, "", end])
        page, found = re.subn(f"{begin}.*?{end}", lambda _, text=text: text, page, flags=re.DOTALL)
        assert found == 1, f"{PAGE.name} has no place for {name}"
    PAGE.write_text(page)


if __name__ == "__main__":
    sys.exit(main())
