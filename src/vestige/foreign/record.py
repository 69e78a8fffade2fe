"""The records of what was done to a foreign model and how, for the report and the next run."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from vestige.errors import VestigeError
from vestige.foreign.bench import Bench
from vestige.foreign.data import names_by_model_class
from vestige.foreign.notes import at_chance, batch_norm_words
from vestige.foreign.request import AnyRequest
from vestige.foreign.weight_files import WeightFile, step_source
from vestige.foreign.wording import in_options
from vestige.measurement.ablation.ablating import AblationResult
from vestige.measurement.ablation.cumulating import CumulativeResult
from vestige.measurement.linearising import LinearityResult
from vestige.measurement.selectivity import SelectivityResult
from vestige.runs.manifest import provenance


def record_of(bench: Bench, entries: Sequence[Mapping[str, Any]], errors: Sequence[VestigeError]) -> dict[str, Any]:
    """The whole record.

    Args:
      bench: what was worked on.
      entries: one for each set of weights that is done, in order.
      errors: met in the others.
    """
    request, subject, inputs = bench.request, bench.subject, bench.inputs
    names = names_by_model_class(inputs, bench.class_map, subject.classes)
    return {
        "identity": bench.identity,
        "settings": request.settings(),
        "model": {
            "name": request.model,
            "kind": subject.kind,
            "parameters": subject.parameters,
            "weights": _weights_words(request),
        },
        "data": {
            "spec": inputs.spec,
            "name": inputs.name,
            "fingerprint": inputs.fingerprint,
            "images": inputs.images,
            "classes": sum(map(bool, names)) or subject.classes,
            "class_names": names,
            "input_shape": list(inputs.shape),
            "preprocess": inputs.said(),
            "skipped": max((result["skipped"] for entry in entries for result in entry["results"]), default=0),
        },
        "made": provenance(),
        "notes": [*inputs.notes, *_fresh(request)],
        "steps_from": step_source(bench.files) if bench.request.checkpoints else "",
        "checkpoints": list(entries),
        "files": [_file(file) for file in (bench.files if bench.request.checkpoints else ())],
        "errors": [str(error) for error in errors],
    }


def entry_of(
    bench: Bench, file: WeightFile, key: str, results: Sequence[Mapping[str, Any]], seconds: float, **files: Any
) -> dict[str, Any]:
    """What the record holds of one set of weights.

    Args:
      bench: what was worked on.
      file: of the weights.
      key: hash of everything that can change the numbers.
      results: one for each protocol.
      seconds: that it took.
      files: that were written.
    """
    rows = bench.rows_of(file)
    return {
        "file": file.name,
        **{name: rows[name] for name in ("step", "epoch", "condition")},
        "weights": file.hash,
        "key": key,
        "seconds": round(seconds, 3),
        "results": list(results),
        **files,
    }


def result_of(
    bench: Bench, file: WeightFile, result: SelectivityResult, *, skipped: int, seconds: float
) -> dict[str, Any]:
    """What the record holds of the measurement of one set of weights by one protocol."""
    classes = int((torch.as_tensor(result.class_counts) > 0).sum())
    scores = {"top1": result.top1, "top5": result.top5, "loss": result.loss, "n": result.n}
    settings = {name: result.settings[name] for name in ("protocol", "permutations", "mode")}
    said = _said(bench, file, result, scores, classes, result.notes)
    return {**settings, **scores, **said, "skipped": skipped, "seconds": round(seconds, 3)}


def ablation_of(
    bench: Bench, file: WeightFile, result: AblationResult, cumulative: CumulativeResult | None, seconds: float
) -> dict[str, Any]:
    """What the record holds of the ablation of one set of weights."""
    scores = {**result.intact, "top5": None}
    settings = {name: result.settings[name] for name in ("values", "mode")}
    notes = dict.fromkeys([*result.notes, *(cumulative.notes if cumulative else ())])
    said = _said(bench, file, result, scores, result.by_class["class"].n_unique(), notes)
    done = {"skipped": len(result.skipped), "seconds": round(seconds, 3)}
    return {"protocol": "corrected", **settings, **scores, **said, **done}


def linearity_of(bench: Bench, file: WeightFile, result: LinearityResult, seconds: float) -> dict[str, Any]:
    """What the record holds of how linear the model is with one set of weights."""
    scores = {"top1": result.top1, "top5": None, "loss": result.loss, "n": result.n}
    settings = {name: result.settings[name] for name in ("pairs", "cka_images", "anchor")}
    said = _said(bench, file, result, scores, result.settings["classes"], result.notes)
    done = {"skipped": len(result.skipped), "seconds": round(seconds, 3)}
    return {"protocol": "corrected", **settings, **scores, **said, **done}


def _said(
    bench: Bench,
    file: WeightFile,
    result: SelectivityResult | AblationResult | LinearityResult,
    scores: Mapping[str, Any],
    classes: int,
    notes: Iterable[str],
) -> dict[str, Any]:
    """What must be said, the layers, and the batch-norm statistics; `classes`: those that have images."""
    notes = [*file.notes, *map(in_options, notes)]
    if classes and file.step != 0 and not is_random(bench.request):
        notes += [warning] if (warning := at_chance(scores["top1"], int(scores["n"]), classes)) else []
    return {
        "notes": notes,
        "batch_norm": batch_norm_words(bench.subject, bench.training, result.settings["batch_norm"]),
        "layers": [[layer.name, layer.stage, layer.units, layer.why] for layer in result.layers],
    }


def _file(file: WeightFile) -> dict[str, Any]:
    return {
        "file": file.name,
        "step": file.step,
        "weights": file.hash or None,
        "duplicate_of": file.duplicate_of,
        "error": str(file.error) if file.error else None,
    }


def is_random(request: AnyRequest) -> bool:
    """Whether the model can only have random weights; what a Python file makes may have others."""
    return not (request.weights or request.checkpoints or request.model.rpartition(":")[0].endswith(".py"))


def _fresh(request: AnyRequest) -> list[str]:
    if request.weights or request.checkpoints:
        return []
    if not is_random(request):
        return ["No --weights were given: the model has the weights that its file gives it."]
    return ["No --weights were given: the model has fresh random weights (vestige never downloads any)."]


def _weights_words(request: AnyRequest) -> str:
    if request.checkpoints:
        return f"{request.checkpoints} (a folder)"
    return str(request.weights) if request.weights else "none given"
