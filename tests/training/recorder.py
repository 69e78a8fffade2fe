"""An intervention that writes down what a step does to the weights, or goes by the weights that another run had."""

from pathlib import Path

import torch
from torch import distributed

from vestige.training.events import Event, Intervention


class Recorder(Intervention):
    """Keeps weights, gradients and the penalty of every step; `follow`: begins every step with those kept there."""

    def __init__(self, name, window, folder: str, follow: str = ""):
        super().__init__(name, window)
        self.folder, self.follow = Path(folder), Path(follow) if follow else None
        self.kept = {}

    def on(self, event, state):
        parameters = list(state.model.parameters())
        if event is Event.BATCH_START:
            if self.follow is not None:
                before = torch.load(self.follow / f"{state.step}-0.pt", weights_only=True)["weights"]
                with torch.no_grad():
                    for parameter, kept in zip(parameters, before, strict=True):
                        parameter.copy_(kept)
            self.kept = {"weights": [p.detach().clone() for p in parameters], "rows": len(state.inputs)}
        elif event is Event.LOSS_END:
            penalty = state.loss - state.cross_entropy
            parts = torch.autograd.grad(penalty, parameters, retain_graph=True, allow_unused=True)
            parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, parts, strict=True)]
            self.kept |= {"penalty": penalty.detach(), "penalty gradient": parts}
        elif event is Event.BACKWARD_END:
            self.kept["gradient"] = [p.grad.clone() for p in parameters]
            self.folder.mkdir(parents=True, exist_ok=True)
            rank = distributed.get_rank() if distributed.is_initialized() else 0
            torch.save(self.kept, self.folder / f"{state.step}-{rank}.pt")


class Uneven(Intervention):
    """A penalty on this process's part of the batch alone."""

    def penalty(self, state):
        return state.logits.sum() * 0 + len(state.inputs) * sum(p.sum() for p in state.model.parameters())


class Drifting(Intervention):
    """Changes the weights of one process alone."""

    def on(self, event, state):
        if event is Event.STEP_END and state.processes.rank == 1:
            with torch.no_grad():
                next(state.model.parameters()).mul_(1.1)
