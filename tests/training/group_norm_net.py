"""A small network with GroupNorm, as a user would write it: processes can share its training on CPUs."""

from torch import nn


def stage(inputs, outputs, stride):
    layers = (nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.GroupNorm(4, outputs), nn.ReLU())
    return nn.Sequential(*layers)


class Net(nn.Module):
    def __init__(self, classes: int, channels: int):
        super().__init__()
        self.layer1 = nn.Sequential(stage(channels, 8, 1), stage(8, 8, 1))
        self.layer2 = nn.Sequential(stage(8, 16, 2), stage(16, 16, 1))
        self.fc = nn.Linear(16, classes)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))
