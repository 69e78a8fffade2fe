"""What a plan must know of the data and the model, found once and kept in `facts.json` of the study.

Planning, `vestige status` and a second `vestige run` read this file and need neither torch nor the images.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vestige.config import DataConfig, ModelConfig, StudyConfig
from vestige.data.fingerprint import fingerprint
from vestige.errors import ConfigError, StoreError
from vestige.runs.store import StudyFolder, file_hash, read_json, value_hash, write_json

FACTS_VERSION = 2


@dataclass(frozen=True)
class Facts:
    """What was found in the images and the network of a study.

    Attributes:
      key: hash of what they were found in; other data or another model make them stale.
      data: content identity of the training and the test images, and how they are prepared; free of paths.
      model: identity of the network; free of paths.
      train_images, test_images: how many there are after `data.limit`.
      class_names: in the order of their indices.
      input_shape: channels, height, width of the network's input.
      layers: name, stage and number of neurons of every layer that is measured, from input to output.
      device: type of the device that `compute.device: auto` was when the study was begun.
    """

    key: str
    data: dict[str, Any]
    model: dict[str, Any]
    train_images: int
    test_images: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    layers: tuple[tuple[str, str, int], ...]
    device: str

    @property
    def neurons(self) -> int:
        """Neurons of all layers together."""
        return sum(units for _, _, units in self.layers)


def identify_data(data: DataConfig) -> dict[str, Any]:
    """The images by their content, and their preparation: what can change a number, without any path.

    Raises:
      DataError: the path does not exist.
    """
    prepared = data.model_dump(mode="json", exclude={"train", "test"})
    if data.interpolation == "bilinear":  # the only kind there was before the field: studies begun then stay valid
        del prepared["interpolation"]
    return {
        "train": fingerprint(data.train, "train"),
        "test": fingerprint(data.test, "test"),
        **prepared,
    }


def identify_model(model: ModelConfig) -> dict[str, Any]:
    """The network by its name, or by the content of the file that defines it."""
    settings = model.model_dump(mode="json")
    path, _, name = model.name.rpartition(":")
    if path.endswith(".py") and Path(path).is_file():
        settings["name"] = f"{file_hash(Path(path))}:{name}"
    return settings


def read_facts(study: StudyConfig, folder: StudyFolder) -> Facts | None:
    """The facts kept in a study's folder, or None where there are none or they are stale.

    Raises:
      DataError: the study's images are gone.
    """
    path = folder.path / "facts.json"
    identity = _identity(study)
    if not path.exists():
        return None
    try:
        facts = decode(read_json(path))
    except (StoreError, KeyError, TypeError):
        return None  # found again in a moment
    return facts if facts.key == value_hash(identity) else None


def find_facts(study: StudyConfig) -> Facts:
    """Open the images, build the network and name its layers: every error in them comes up here, before any work.

    Raises:
      DataError, ModelError: the images or the network cannot be used.
    """
    from vestige.data.datasets import check_same_classes, open_images
    from vestige.data.transforms import normalise
    from vestige.measurement.network import Network
    from vestige.models.zoo import build, check_classes
    from vestige.training.runtime import choose_device

    identity = _identity(study)
    train = open_images(study.data.train, "train", study.data)
    test = open_images(study.data.test, "test", study.data)
    check_same_classes(train, test)
    channels, height, width = train.shape
    sample = normalise(train.images([0, len(train) - 1]), study.data.mean, study.data.std)
    model = build(study.model, classes=len(train.class_names), channels=channels, size=height, seed=0)
    check_classes(model, sample, len(train.class_names))
    network = Network.prepare(model, sample)
    return Facts(
        key=value_hash(identity),
        data=identity["data"],
        model=identity["model"],
        train_images=len(train),
        test_images=len(test),
        class_names=tuple(train.class_names),
        input_shape=(channels, height, width),
        layers=tuple((layer.name, layer.stage, layer.units) for layer in network.layers),
        device=choose_device("auto").type,
    )


def check_runnable(study: StudyConfig, facts: Facts) -> None:
    """What can only be seen with torch, before any work: the device, and that every intervention changes something.

    Raises:
      ConfigError: there is no such device, or not the one that the study was begun on; an intervention without effect.
    """
    from vestige.models.layers import Layer
    from vestige.training.interventions import build
    from vestige.training.runtime import choose_device

    found = choose_device(study.compute.device).type
    if study.compute.device == "auto" and found != facts.device:
        raise ConfigError(
            "choosing the device 'auto' (compute.device)",
            found=f"it is {found!r} here, and the study was begun on {facts.device!r}, which gives other last bits",
            remedy=f"Go on where there is a {facts.device!r}, or begin another study (--out FOLDER)",
        )
    layers = [Layer(name, stage, node="", units=units, axis=1, why="") for name, stage, units in facts.layers]
    for condition in study.conditions.values():
        build(condition.interventions, layers)


def check_shareable(study: StudyConfig, facts: Facts, started: int) -> None:
    """Whether the processes that were started can share a training of the study.

    Args:
      study: the study.
      facts: what was found in it.
      started: processes.

    Raises:
      ConfigError: they are not as many as the study asks for.
      ModelError: its batch norm cannot be shared here.
    """
    wanted = study.compute.processes
    if wanted != started:
        raise ConfigError(
            "starting to train",
            found=f"compute.processes is {wanted}, so many are to share each run, and started are {started}",
            remedy=f"Start as many: `torchrun --nproc-per-node {wanted} -m vestige run ...`"
            if wanted > 1
            else "Start it without torchrun",
        )
    if wanted == 1:
        return
    from vestige.models.zoo import build
    from vestige.training.bench import with_shared_batch_norm
    from vestige.training.runtime import choose_device

    channels, size, _ = facts.input_shape
    model = build(study.model, classes=len(facts.class_names), channels=channels, size=size, seed=0)
    device = choose_device(study.compute.device).type
    with_shared_batch_norm(model, study, device, facts.train_images, wanted)


def write_facts(facts: Facts, folder: StudyFolder) -> None:
    """Keep the facts in the study's folder."""
    write_json(folder.path / "facts.json", asdict(facts))


def decode(stored: dict[str, Any]) -> Facts:
    """Facts from their JSON form."""
    return Facts(
        **{
            **stored,
            "class_names": tuple(stored["class_names"]),
            "input_shape": tuple(stored["input_shape"]),
            "layers": tuple(tuple(layer) for layer in stored["layers"]),
        }
    )


def _identity(study: StudyConfig) -> dict[str, Any]:
    return {
        "version": FACTS_VERSION,
        "data": identify_data(study.data),
        "model": identify_model(study.model),
    }
