"""An intervention as a user would write it: the gradient of every parameter is made smaller."""

from vestige.training.events import Event, Intervention


class Shrink(Intervention):
    quantities = ("dose",)
    cumulative = ("dose",)

    def __init__(self, name, window, strength: float = 0.5):
        super().__init__(name, window)
        self.strength, self.dose = strength, 0.0

    def on(self, event, state):
        if event is Event.BACKWARD_END:
            for parameter in state.model.parameters():
                self.dose += state.lr * self.strength * float(parameter.grad.norm())
                parameter.grad *= 1 - self.strength

    def log(self):
        return {"dose": self.dose}

    def keep(self):
        import torch

        return {"dose": torch.tensor(self.dose, dtype=torch.float64)}

    def restore(self, kept):
        self.dose = float(kept["dose"])


class Plain:
    def __init__(self, name):
        self.name = name


class Bare(Intervention):
    def __init__(self, strength=1.0):
        self.strength = strength
