"""`vestige linearity` on somebody's model: every set of weights measured once, killed at any moment and run again."""

import math
import warnings
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

import polars as pl
import torch

from vestige.config import ComputeConfig
from vestige.foreign.bench import KEYED, Bench, plain
from vestige.foreign.counting import Counting, counting
from vestige.foreign.folder import LinearityFolder
from vestige.foreign.notes import layers_words
from vestige.foreign.record import linearity_of
from vestige.foreign.request import LinearityRequest, checked
from vestige.foreign.tabling import Made, Tabling
from vestige.foreign.turns import Entry, Outcome
from vestige.foreign.weight_files import WeightFile
from vestige.measurement.comparing import LinearModel
from vestige.measurement.linearising import linearity
from vestige.measurement.linearity.pixels import VERSION, PixelModel
from vestige.runs.manifest import provenance
from vestige.runs.store import value_hash
from vestige.runs.tables import conform
from vestige.training.runtime import session


def linearise_foreign(request: LinearityRequest, *, verify: bool = False, show: bool = True) -> Outcome:
    """Measure how linear a model is with one set of weights, or with each in a folder; what is done is left as it is.

    Args:
      request: what to do.
      verify: hash files that are there again, rather than trust their size.
      show: how it goes on, on standard error.

    Raises:
      VestigeError: nothing can be measured; what was there stays.
    """
    request = checked(request)
    folder = LinearityFolder(request.folder)
    compute = ComputeConfig(device=request.device, threads=request.threads or torch.get_num_threads())
    with session(compute) as device:
        bench = Bench.opened(request, device)
        folder.refuse_others(bench.identity)
        return _Linearising(bench, folder, request).run(verify=verify, show=show)


@dataclass(frozen=True)
class _Linearising(Tabling):
    """The work on one folder."""

    doing, done, through = "measuring linearity of", "measured", "linearity"

    request: LinearityRequest
    folder: LinearityFolder
    _compared: list[LinearModel] = field(default_factory=list)
    """The linear model that all sets of weights are compared with, once there is one."""
    _said: list[str] = field(default_factory=list)
    """What must be said of it."""

    @cached_property
    def _linear_key(self) -> str:
        """Hash of everything that can change the linear model."""
        bench, made = self.bench, provenance()["versions"]
        assert bench.training is not None
        return value_hash(
            {
                "formula": VERSION,
                "images": bench.training.fingerprint,
                "measured": [bench.inputs.fingerprint, self.request.images],  # what is said depends on them
                "preparation": plain(bench.training.preparation),
                "classes": bench.subject.classes,
                "class_map": bench.class_map,
                **{name: getattr(self.request, name) for name in ("dtype", "on_bad_image", "threads", "batch_size")},
                **{name: made[name] for name in KEYED},
                "scikit-learn": version("scikit-learn"),
            }
        )

    def key(self, file: WeightFile) -> str:
        """Hash of everything that can change the table of a set of weights."""
        return self.bench.key(file, ("linearity",))

    def counted(self, files: int, done: Collection[str], *, show: bool) -> AbstractContextManager[Counting]:  # noqa: ARG002
        """Inputs that went through a network or its anchor."""
        return counting(files, None, show=show, what=("measuring linearity", "inputs"))

    def make(self, file: WeightFile, label: str | None, count: Counting) -> Made:  # noqa: ARG002
        """Measure the weights that the model has."""
        bench, request = self.bench, self.request
        count.begin(file.name)
        if bench.training and not self._compared:
            self._look_for_kept(bench.training.name, count)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            result = linearity(
                bench.subject.model,
                bench.inputs.data,
                request.layers or None,
                images=request.images,
                pairs=request.pairs,
                cka_images=request.cka_images,
                top_k=request.top_k,
                linear_model=self._compared[0] if self._compared else None,
                progress=count.at,
                **bench.preparation,
            )
        if self._compared:
            result = replace(result, notes=tuple(dict.fromkeys((*result.notes, *self._said))))
        elif isinstance(result.linear_model, PixelModel):
            self._compared.append(result.linear_model)
            self._said.extend(note for note in result.notes if "linear model of the inputs" in note)
            if request.checkpoints:  # one set of weights needs it once
                result.linear_model.write(self.folder.linear_model, self._linear_key, self._said)
        table = conform(result.table, "linearity", **bench.rows_of(file), protocol="corrected", n=result.n)
        return Made({"linearity": table}, partial(linearity_of, bench, file, result), result.skipped)

    def _look_for_kept(self, images: str, count: Counting) -> None:
        """The linear model of a command that was killed after a set of weights, or that had fewer of them."""
        kept = PixelModel.read(self.folder.linear_model, self._linear_key)
        if kept is None:
            count.before(f"fitting the linear model of the pixels of {images}")
        else:
            self._compared.append(kept[0])
            self._said.extend(kept[1])

    def notes(self, record: Mapping[str, Any]) -> list[str]:
        """The layers first, which are those of all sets of weights."""
        (found,) = record["checkpoints"][0]["results"]
        return [layers_words(found["layers"]), *super().notes(record)]

    def write_page(
        self, record: Mapping[str, Any], tables: Mapping[str, pl.DataFrame], through: pl.DataFrame | None
    ) -> None:
        """Write `linearity.html`."""
        from vestige.report.linearised import write_linearised

        write_linearised(self.folder.report, record, tables["linearity"], through)

    def lines(self, record: Mapping[str, Any], entry: Entry) -> list[str]:
        """One line: accuracy, and how linear the logits are."""
        table = pl.read_parquet(self.folder.path / entry["tables"]["linearity"])
        (found,) = entry["results"]
        name = entry["file"] if self.request.checkpoints else record["model"]["name"]
        step = "" if entry["step"] is None else f" (step {entry['step']})"
        parts = [f"top-1 {found['top1']:.2%}, loss {found['loss']:.3f} on {found['n']} images"]
        midpoint, share = (table.filter(measure=name, layer="logits")["value"] for name in ("midpoint", "kalimeris"))
        parts += [f"midpoint nonlinearity of the logits {value:.3f}" for value in midpoint]
        unknown = "(unknown: it knows less than 0.1 bit of the classes, or images are too few)"
        parts += [f"explained by a linear model {unknown if math.isnan(v) else format(v, '.3f')}" for v in share]
        churn = table.filter(measure="gate-churn")["value"].fill_nan(None).mean()
        parts += [f"mean gate churn {churn:.3f}"] if isinstance(churn, float) else []
        return [f"{name}{step}: {', '.join(parts)}"]
