"""`measured.json` of a foreign model: what was measured and how, for the report and for the next run."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vestige.errors import VestigeError
from vestige.foreign.bench import Bench
from vestige.foreign.data import names_by_model_class
from vestige.foreign.notes import at_chance, batch_norm_words
from vestige.foreign.request import AblationRequest, Request
from vestige.foreign.weight_files import WeightFile, step_source
from vestige.measurement.selectivity import SelectivityResult
from vestige.runs.manifest import provenance


def record_of(bench: Bench, entries: Sequence[Mapping[str, Any]], errors: Sequence[VestigeError]) -> dict[str, Any]:
    """The whole record.

    Args:
      bench: what was measured.
      entries: one for each set of weights that was measured, in order.
      errors: met in measuring.
    """
    skipped = max((result["skipped"] for entry in entries for result in entry["results"]), default=0)
    return {
        **subject_of(bench, skipped),
        "steps_from": step_source(bench.files) if bench.request.checkpoints else "",
        "checkpoints": list(entries),
        "files": [_file(file) for file in (bench.files if bench.request.checkpoints else ())],
        "errors": [str(error) for error in errors],
    }


def subject_of(bench: Bench, skipped: int) -> dict[str, Any]:
    """What any record says of the model and the images.

    Args:
      bench: what was worked on.
      skipped: images that were left out as unreadable.
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
            "skipped": skipped,
        },
        "made": provenance(),
        "notes": [*inputs.notes, *_fresh(request)],
    }


def result_of(
    bench: Bench, file: WeightFile, result: SelectivityResult, *, skipped: int, seconds: float
) -> dict[str, Any]:
    """What the record holds of one set of weights and protocol."""
    notes = [*file.notes, *result.notes]
    classes = int((torch.as_tensor(result.class_counts) > 0).sum())
    if file.step != 0 and not is_random(bench.request) and (warning := at_chance(result.top1, result.n, classes)):
        notes.append(warning)
    return {
        "protocol": result.settings["protocol"],
        "top1": result.top1,
        "top5": result.top5,
        "loss": result.loss,
        "n": result.n,
        "skipped": skipped,
        "seconds": round(seconds, 3),
        "notes": notes,
        "batch_norm": batch_norm_words(bench.subject, bench.training, result.settings["batch_norm"]),
        "permutations": result.settings["permutations"],
        "mode": result.settings["mode"],
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


def is_random(request: Request | AblationRequest) -> bool:
    """Whether the model can only have random weights; what a Python file makes may have others."""
    return not (request.weights or request.checkpoints or request.model.rpartition(":")[0].endswith(".py"))


def _fresh(request: Request | AblationRequest) -> list[str]:
    if request.weights or request.checkpoints:
        return []
    if not is_random(request):
        return ["No --weights were given: the model has the weights that its file gives it."]
    return ["No --weights were given: the model has fresh random weights (vestige never downloads any)."]


def _weights_words(request: Request | AblationRequest) -> str:
    if request.checkpoints:
        return f"{request.checkpoints} (a folder)"
    return str(request.weights) if request.weights else "none given"
