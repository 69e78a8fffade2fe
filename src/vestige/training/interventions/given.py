"""What interventions get from outside their run: images, tables of other runs, checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from vestige.config import StudyConfig
from vestige.data.datasets import ImageSet
from vestige.runs.store import RunFolder
from vestige.training.keeper import Parent


@dataclass(frozen=True)
class Given:
    """It comes through the plan of the study, but for the images.

    Attributes:
      study: the study; None where an intervention is only looked at, to see whether it can be.
      tables: of selectivity, by the name of the intervention that asked for one.
      run: the run's own folder.
      baseline: the folder of its baseline's run of the same seed.
      parent: the run that it branches from, and where.
      images: of the splits.
    """

    study: StudyConfig | None = None
    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    run: RunFolder | None = None
    baseline: RunFolder | None = None
    parent: Parent | None = None
    images: Mapping[str, ImageSet] = field(default_factory=dict)
