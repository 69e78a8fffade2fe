"""What a run needs in memory before its first step: images, network, optimiser, and what acts on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vestige.config import InterventionConfig, RecipeConfig, StudyConfig
from vestige.data.datasets import ImageSet, open_images
from vestige.data.loader import TrainingLoader
from vestige.data.transforms import normalise
from vestige.errors import ModelError
from vestige.models.graph import Graph
from vestige.models.layers import find_layers
from vestige.models.rewriting import editing
from vestige.models.zoo import build as build_model
from vestige.models.zoo import check_classes
from vestige.training import interventions
from vestige.training.events import Intervention, LoopState
from vestige.training.interventions import Given
from vestige.training.processes import Processes
from vestige.training.schedule import acting_steps

Forward = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]
"""Inputs to logits, and activations by fx node."""


@dataclass
class Bench:
    """A run before its first step.

    Attributes:
      study: the study.
      state: what hooks see: the network at its initialisation, in train mode, and its optimiser.
      loader: batches as a function of the step.
      test: the images evaluated at checkpoints.
      layout: memory format of network and inputs.
      interventions: those of the condition.
      graph: the network traced, sharing its parameters; None without interventions.
    """

    study: StudyConfig
    state: LoopState
    loader: TrainingLoader
    test: ImageSet
    layout: torch.memory_format
    interventions: tuple[Intervention, ...] = ()
    graph: Graph | None = None
    _forwards: dict[tuple[tuple[str, ...], tuple[str, ...]], Forward] = field(default_factory=dict)
    _active: tuple[Intervention, ...] = ()

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.study.recipe.epochs * self.state.steps_per_epoch

    def forward(self, active: Sequence[Intervention]) -> Forward:
        """The network; with the activations that active interventions need, where there are any.

        Without them it is the plain module: until an onset a run is its baseline, to the last bit.
        """
        nodes = tuple(dict.fromkeys(node for one in active for node in one.nodes))
        edits = tuple(dict.fromkeys(node for one in active for node in one.edits))
        key, self._active = (nodes, edits), tuple(active)
        if key not in self._forwards:
            if edits:
                assert self.graph is not None
                graph = self.graph
                module = editing(graph.module, [graph.node(n) for n in nodes], [graph.node(n) for n in edits])
                self._forwards[key] = lambda inputs: module(inputs, self._edit)
            elif nodes:
                assert self.graph is not None
                self._forwards[key] = self.graph.capturing(nodes)
            else:
                model = self.state.model
                self._forwards[key] = lambda inputs: (model(inputs), {})
        return self._forwards[key]

    def _edit(self, node: str, activation: Tensor) -> Tensor:
        """What the interventions of the step make of a node's activation, one after the other."""
        for one in self._active:
            if node in one.edits:
                activation = one.edit(node, activation)
        return activation


def prepare(
    study: StudyConfig,
    condition: str,
    seed: int,
    device: torch.device,
    given: Given | None = None,
    processes: Processes | None = None,
) -> Bench:
    """Open the images, build the network at its initialisation, and set up what acts on it.

    Raises:
      ConfigError: an intervention without effect.
      DataError, ModelError: images or a network that cannot be used.
    """
    processes = processes or Processes()
    recipe, data = study.recipe, study.data
    train = open_images(data.train, "train", data)
    test = open_images(data.test, "test", data)
    classes = len(train.class_names)
    sample = normalise(train.images(np.arange(min(2, len(train)))), data.mean, data.std)
    _, channels, size, _ = sample.shape
    model = build_model(study.model, classes=classes, channels=channels, size=size, seed=seed)
    check_classes(model, sample, classes)
    configs = study.conditions[condition].interventions
    loader = TrainingLoader(train, data, recipe.batch_size, seed, processes.share)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    given = replace(given or Given(study), images={"train": train, "test": test})
    acting = _interventions(configs, model, sample, loader.steps_per_epoch, recipe.epochs, given) if configs else ()
    if processes.world > 1:
        model = with_shared_batch_norm(model, study, device.type, len(train), processes.world)
    model = model.to(device).to(memory_format=layout).train()
    state = LoopState(model, _sgd(model, recipe), device, seed, classes, loader.steps_per_epoch, processes=processes)
    state.training_labels = train.labels
    graph = Graph.trace(model, copy=False) if acting else None
    return Bench(study, state, loader, test, layout, acting, graph)


def with_shared_batch_norm(
    model: nn.Module, study: StudyConfig, device_type: str, images: int, processes: int
) -> nn.Module:
    """A network whose batch norms, if any, have the statistics of the whole batch where processes share it.

    Raises:
      ModelError: they cannot have them here.
    """
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    other = next((n for n, m in norms if type(m) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)), None)
    last = images % study.recipe.batch_size or study.recipe.batch_size
    if not norms:
        return model
    found = None
    if device_type != "cuda":
        found = f"it has batch norm ({norms[0][0]!r}), which is shared between GPUs only (SyncBatchNorm)"
    elif other is not None:
        found = f"its batch norm {other!r} is a kind of its own, which SyncBatchNorm cannot stand for"
    elif last < processes:  # SyncBatchNorm goes wrong in half precision where a process has no image
        found = (
            f"it has batch norm, and the last batch of an epoch has {last} images, too few for each process to get one"
        )
    if found:
        raise ModelError(
            f"sharing the training of the model {study.model.name!r} among {processes} processes",
            found=found,
            remedy="Train with one process (without torchrun; compute.workers runs train side by side), "
            "or take a network with GroupNorm or LayerNorm",
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def _interventions(
    configs: Sequence[InterventionConfig],
    model: nn.Module,
    sample: Tensor,
    steps_per_epoch: int,
    epochs: int,
    given: Given,
) -> tuple[Intervention, ...]:
    # The layers are found on a copy: a forward in train mode would move the batch-norm statistics.
    layers = find_layers(Graph.trace(model), sample)
    windows = [acting_steps(one, steps_per_epoch, epochs * steps_per_epoch) for one in configs]
    return interventions.build(configs, layers, windows, given)


def _sgd(model: nn.Module, recipe: RecipeConfig) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        foreach=True,
    )
