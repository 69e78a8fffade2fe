"""What a study claims, as it stands in its YAML file: typed, frozen, every default here."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from vestige.acting import Config, Window


class Roles(Config):
    """Which condition plays which part in claim C4."""

    baseline: str = "baseline"
    early: str = "early"
    mid: str = "mid"
    late: str = "late"
    eta2_early: str = "eta2-early"
    permuted_eta2_early: str = "permuted-eta2-early"


class ClaimsConfig(Config):
    """What the study claims, fixed before its results exist."""

    judge: tuple[Literal["C1", "C2", "C3", "C4"], ...] = ("C1", "C2", "C3", "C4")
    early_window: Annotated[Window, BeforeValidator(lambda v: {"stop": v} if isinstance(v, int) else v)]
    """What counts as early, [0, w): from pilot seeds that are not among the study's, then frozen. A number: steps."""
    pilot_seeds: tuple[int, ...] = ()
    """The seeds `early_window` was taken from; they may not be among the study's."""
    accuracy_effect: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Smallest change of final accuracy that matters (C4)."""
    roles: Roles = Roles()

    @model_validator(mode="after")
    def _check(self):
        if self.early_window.start or self.early_window.stop is None:
            raise ValueError("early_window begins at step 0 and has a stop")
        return self
