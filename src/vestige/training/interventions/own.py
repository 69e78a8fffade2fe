"""An intervention from the user's own file: a class that is called with what it takes of a few things by name."""

from collections.abc import Sequence

from vestige.acting import OwnInterventionConfig
from vestige.errors import ConfigError
from vestige.models.layers import Layer
from vestige.training.events import Intervention
from vestige.userfile import call_object, load_object, taken


def build_own(
    name: str, config: OwnInterventionConfig, window: tuple[int, int], layers: Sequence[Layer]
) -> Intervention:
    """Make the user's intervention.

    Args:
      name: unique in the run.
      config: its file and class, and its settings, which are passed by name.
      window: steps [start, stop) in which it acts.
      layers: all that the network has.

    Raises:
      ConfigError: it cannot be loaded or made, or is no `vestige.training.events.Intervention`, or not set up as one.
    """
    path, _, attribute = config.kind.rpartition(":")
    doing = f"setting up the intervention {config.kind!r}"
    source = load_object(path, attribute, doing=doing, kind=ConfigError)
    offered = taken(source, {"name": name, "window": window, "layers": tuple(layers)})
    made = (
        call_object(
            source,
            path,
            {**offered, **config.settings},
            doing=doing,
            kind=ConfigError,
            remedy="Give it what it needs in `settings`, or mend it",
        )
        if callable(source)
        else source
    )
    if not isinstance(made, Intervention):
        raise ConfigError(
            doing,
            found=f"it is a {type(made).__name__}",
            remedy="Name a class that inherits from vestige.training.events.Intervention",
        )
    if not (hasattr(made, "nodes") and hasattr(made, "edits")):
        raise ConfigError(
            doing,
            found="its __init__ does not make it an Intervention: it lacks nodes and edits",
            remedy="Begin its __init__ with super().__init__(name, window)",
        )
    made.name, made.window = name, window
    return made
