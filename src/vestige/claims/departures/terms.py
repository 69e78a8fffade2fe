"""The words that departures of the released code are written in: what is changed, and what comes of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from vestige.claims.curves import PROTOCOL, Material
from vestige.claims.evidence import Sample
from vestige.claims.terms import Claim, Clause

CORRECTED = "corrected"


@dataclass(frozen=True)
class Case:
    """A study whose claims are judged, and what its tables hold besides the corrected protocol.

    Attributes:
      material: what the claims are judged on.
      tables: by kind, of all protocols.
      claims: those registered, by id.
      samples: statistics of all clauses and of what stands beside them, by id.
    """

    material: Material
    tables: Mapping[str, pl.DataFrame]
    claims: Mapping[str, Claim]
    samples: Mapping[str, Sample]

    @property
    def baseline(self) -> str:
        """The condition that C1 to C3 are about."""
        return self.material.claims.roles.baseline

    def rows(self, kind: str, protocol: str) -> pl.DataFrame:
        """The baseline's rows of a protocol, as if they were of the corrected one."""
        table = self.tables.get(kind, self.material.tables[kind])
        found = table.filter(pl.col("condition") == self.baseline, pl.col("protocol") == protocol)
        return found.with_columns(pl.lit(PROTOCOL).alias("protocol"))

    @cached_property
    def selectivity(self) -> pl.DataFrame:
        """The baseline's selectivity by the corrected protocol."""
        return self.rows("selectivity", PROTOCOL)

    @cached_property
    def cumulative(self) -> pl.DataFrame:
        """The baseline's cumulative ablation by the corrected protocol."""
        return self.rows("cumulative", PROTOCOL)

    def on(self, kind: str, rows: pl.DataFrame) -> Material:
        """The same study judged on other rows of one kind."""
        return Material.of(self.material.study, {**self.material.tables, kind: rows}, self.material.classes)


@dataclass(frozen=True, kw_only=True)
class Made:
    """What comes of a departure.

    Attributes:
      samples: of the clauses that it touches, by their ids.
      clauses: those that take the place of the claim's clauses of these ids.
      dropped: the claim's clauses that the released code has no like of.
      against: what it is compared with: the corrected protocol, or that with other departures made on both sides.
      reference: samples of these clauses under `against`; None: those of the corrected protocol.
      reference_clauses: clauses that take the place of the claim's there.
      checks: manipulation checks that take the place of the claim's, by id.
      note: what a reader of the numbers must know.
      missing: what the study would have to ask for; then there are no numbers.
    """

    samples: Mapping[str, Sample] = field(default_factory=dict)
    clauses: Mapping[str, Clause] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    against: str = CORRECTED
    reference: Mapping[str, Sample] | None = None
    reference_clauses: Mapping[str, Clause] = field(default_factory=dict)
    checks: Mapping[str, Sample] = field(default_factory=dict)
    note: str = ""
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class Departure:
    """One thing that the released code does otherwise.

    Attributes:
      id: unique within its claim.
      claim: id of the claim that it touches.
      title: a few words.
      released: what the released code does.
      corrected: what stands in its place.
      touches: ids of the clauses whose statistic it changes.
      make: its numbers.
    """

    id: str
    claim: str
    title: str
    released: str
    corrected: str
    touches: tuple[str, ...]
    make: Callable[[Case], Made]
