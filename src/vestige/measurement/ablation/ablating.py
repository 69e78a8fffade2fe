"""`vestige.ablate`: every neuron of anybody's classifier replaced, one at a time or in groups.

Shapes: N images, U neurons (units) of a layer, C classes.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from typing import Any, get_args

import polars as pl
import torch
from torch import nn

from vestige.config import AblationMode, AblationValue
from vestige.errors import ConfigError, check_known, nearest
from vestige.measurement.ablation.budget import memory_bytes
from vestige.measurement.ablation.choosing import NeuronGroup, as_table, chosen_units, named_layers, neuron_groups
from vestige.measurement.ablation.effect_tables import Task, ranking_table
from vestige.measurement.ablation.groups import ablate_groups
from vestige.measurement.ablation.material import Material, make_ready
from vestige.measurement.ablation.sets import value_of
from vestige.measurement.ablation.single_ablation import CHECKED_IMAGES, CHECKED_NEURONS, DOING, ablate_singly
from vestige.measurement.ablation.telling import Progress, Telling
from vestige.measurement.network import Dtype
from vestige.measurement.preparing import Preparation, warn_of
from vestige.measurement.recalibrating import BatchNorm
from vestige.models.layers import Layer
from vestige.runs.store import write_table


@dataclass(frozen=True)
class AblationResult:
    """What replacing neurons does.

    Attributes:
      table: one row a neuron and value, the columns of the schema "ablation" but for the identity of the run.
      by_class: one row a neuron, value and class that has images, likewise of "ablation-by-class".
      groups: one row a group; None where none were given.
      ranking: one row a neuron: layer, neuron, csi, mean, preferred_class, on the images ranked on.
      intact: top1, loss (nats) and n (images) of the network as it is.
      layers: where the neurons are.
      skipped: what is wrong with each image that was left out as unreadable.
      notes: what must be known to read the numbers rightly, a sentence each.
      settings: what made them, ready for JSON.
    """

    table: pl.DataFrame
    by_class: pl.DataFrame
    groups: pl.DataFrame | None
    ranking: pl.DataFrame
    intact: Mapping[str, float]
    layers: tuple[Layer, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_parquet(self, folder: Path | str) -> None:
        """Write the tables into a folder, each atomically, settings, scores and notes in their metadata ("vestige")."""
        about = {**self.settings, **self.intact, "notes": list(self.notes)}
        metadata = {"vestige": json.dumps(about, sort_keys=True)}
        tables = {"ablation": self.table, "ablation_by_class": self.by_class, "ranking": self.ranking}
        for name, table in (tables | ({} if self.groups is None else {"groups": self.groups})).items():
            write_table(Path(folder) / f"{name}.parquet", table, metadata)


def ablate(
    model: nn.Module,
    data: Any,
    layers: Sequence[str | Layer] | None = None,
    *,
    neurons: Any = None,
    value: AblationValue | Sequence[AblationValue] | None = None,
    mode: AblationMode = "exact",
    precision: float = 1.1,
    groups: Any = None,
    ranking_data: Any = None,
    held_out: bool = False,
    batch_norm: BatchNorm = "recalibrate",
    training_data: Any = None,
    dtype: Dtype = "float32",
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    memory: float | str | None = None,
    folder: Path | str | None = None,
    class_map: Sequence[int] | Mapping[int, int] | None = None,
    per_input: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> AblationResult:
    """Replace every neuron of a classifier, each alone, on the same images, and see what that does to it.

    Several processes may make this same call on one `folder`: they share the work, and may be killed at any moment.

    Args:
      model, layers, batch_norm, training_data, device, workers, class_map: as in `vestige.measure`.
      dtype: to compute in. "bfloat16" is quicker, and coarser, where a processor multiplies matrices in it; elsewhere
        float32 is both quicker and finer, and is used instead, which the settings and a note say.
      data: as in `vestige.measure`; it must be readable more than once, in a fixed order.
      neurons: only these: a mapping of layer names to indices, or a table with the columns layer and neuron; None: all,
        or with `groups` those in them.
      value: what replaces a neuron, at every position: "zero"; "mean", its mean over images and positions; "resample",
        its map from another image; several: each in turn. None: zero, and mean in layers whose activation can be
        negative.
      mode: "exact": every neuron on every image. "controlled": every neuron on some images, corrected by an estimate on
        all of them. "screen": the estimate alone.
      precision: of "controlled": how many times what "exact" would have `loss_delta_se` is aimed at, at most.
      groups: a table with the columns layer, neuron and group: the neurons of each group are replaced together too.
      ranking_data: images from which the means and preferred classes are; None: `data`.
      held_out: take them from one half of `data`, alternate images of each class, and ablate on the other.
      batch_size: images a forward of the whole network; None: from the shapes of its activations.
      memory: bytes, or text such as "4GiB", that may be taken for holding images and estimates; None: half of what is
        free. It changes no number.
      folder: where finished pieces are kept, so that the same call goes on where it was cut off.
      per_input: write each image's change of loss into `folder`: `per_input/VALUE/LAYER.npy`, neurons x images float32.
      seed: of the images that "controlled" draws.
      progress: called with the number of ablations done (of one neuron, for one image) and of all.

    Returns:
      See `AblationResult`. The columns: loss_delta (nats, ablated minus intact), loss_delta_se (of the mean over
      images, paired), approximation_se (0 for "exact"), top1_delta, right_to_wrong, wrong_to_right, preferred_class,
      preferred_delta and others_delta (of accuracy, on its images and on the others).

    Raises:
      ConfigError: an argument that does not make sense.
      DataError: as `vestige.measure`; data that can be read only once or come in another order each time.
      ModelError: as `vestige.measure`.
      StoreError: `folder` cannot be written, or was made by other settings.

    References:
      Morcos et al. (2018), On the importance of single directions for generalization; Zhou et al. (2018), Revisiting
      the importance of individual units in CNNs via ablation.
    """
    values, limit, named = in_turn(value), memory_bytes(memory), named_layers(neurons, groups)
    _check(mode, precision, per_input, folder)
    layers = named if layers is None else layers
    how = Preparation(model, layers, batch_norm, training_data, dtype, device, batch_size, workers, class_map, DOING)
    material = make_ready(how, data, ranking_data=ranking_data, held_out=held_out, memory=limit, folder=folder)
    ranking, intact, telling = material.ranking(), material.intact(), Telling(material.pieces, progress)
    sets = [] if groups is None else neuron_groups(groups, material.network.layers)
    tasks = _tasks(neurons, sets, values, material.network.layers)
    found = ablate_singly(
        material.network,
        material.blocks,
        tasks,
        ranking=ranking,
        mode=mode,
        precision=precision,
        seed=seed,
        memory=limit / 2,
        pieces=material.pieces,
        per_input=Path(folder) if folder is not None and per_input else None,
        telling=telling,
    )
    joint = ablate_groups(material, sets, values, ranking, telling) if sets else None
    notes = (*material.notes, *_said(mode, found.checked))
    warn_of(notes)
    made_by = _made_by(tasks, mode, precision, seed, found.checked)
    return AblationResult(
        found.table,
        found.by_class,
        joint,
        ranking_table(ranking, material.network.layers),
        intact,
        material.network.layers,
        material.skipped,
        (*notes, _ranked(material, made_by["values"])),
        {**material.settings, **made_by},
    )


def in_turn(value: AblationValue | Sequence[AblationValue] | None) -> tuple[AblationValue, ...] | None:
    """What is to replace neurons, each once, in the user's order; None: what suits the layer.

    Raises:
      ConfigError: there is no such value, or none is given.
    """
    if value is None:
        return None
    values = tuple(dict.fromkeys((value,) if isinstance(value, str) else value))
    for one in values:
        check_known(DOING, "value", one, get_args(AblationValue))
    if not values:
        raise ConfigError(DOING, found="no value", remedy=nearest("", get_args(AblationValue)))
    return values


def _check(mode: str, precision: float, per_input: bool, folder: Path | str | None) -> None:
    check_known(DOING, "mode", mode, get_args(AblationMode))
    if not 1 < precision < inf:
        raise ConfigError(DOING, found=f"precision is {precision}", remedy="Give a number above 1, such as 1.1")
    if per_input and (folder is None or mode != "exact"):
        found = f"per_input=True with mode={mode!r}" if folder else "per_input=True without a folder"
        raise ConfigError(DOING, found=found, remedy="Give a folder, and mode='exact'")


def _tasks(
    neurons: Any, groups: Sequence[NeuronGroup], values: Sequence[str] | None, layers: Sequence[Layer]
) -> list[Task]:
    """The neurons that are asked for; all where none is."""
    if neurons is None and not groups:
        units: Mapping[str, Any] = {layer.name: None for layer in layers}
    else:
        units = as_table({}, groups) if neurons is None else chosen_units(neurons, layers)
    return [
        Task(layer, value, units[layer.name])
        for layer in layers
        if layer.name in units
        for value in values or (value_of(layer),)
    ]


def _made_by(
    tasks: Sequence[Task], mode: str, precision: float, seed: int, checked: Mapping[str, float]
) -> dict[str, Any]:
    """The settings that the mode has."""
    return {
        "values": sorted({task.value for task in tasks}),
        "mode": mode,
        "precision": precision if mode == "controlled" else None,
        "seed": None if mode == "exact" else seed,
        "screening_spearman": {value: r for value, r in checked.items() if isfinite(r)} or None,
    }


def _ranked(material: Material, values: Sequence[str]) -> str:
    what = "Preferred classes and the means that replace neurons" if "mean" in values else "Preferred classes"
    return f"{what} are of {material.ranked}."


def _said(mode: str, checked: Mapping[str, float]) -> Iterator[str]:
    """What must be said aloud of a mode."""
    if mode == "controlled":
        yield (
            "Every neuron was run on some images only, its effects on all of them estimated without bias: "
            "loss_delta_se holds the error of that too, and shares may come out slightly below 0."
        )
    if mode == "screen":
        told = {value: f"{r:.3f}" if isfinite(r) else "too few neurons to tell" for value, r in checked.items()}
        said = ", ".join(f"{r} ({value})" for value, r in told.items())
        yield (
            "Effects are estimates from gradients, with no known standard error. Their rank correlation with exact "
            f"ablation, over {CHECKED_NEURONS} neurons and {CHECKED_IMAGES} images at most: {said}."
        )
