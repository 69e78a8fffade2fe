"""Real digits in PNG folders, and a small network that was trained on them, as strangers would have them."""

from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from vestige.config import DataConfig
from vestige.data.datasets import open_images
from vestige.models.zoo import ResNet

MODEL = """
from vestige.models.zoo import ResNet
def make(classes): return ResNet(8, classes=classes, width=4)
def twelve(): return ResNet(8, classes=12, width=4)
"""
STEPS = (0, 5, 10, 30)
PREPARED = ("--preprocess", "none,mean=0.3,std=0.4")


def digits(split: str, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(N, 8, 8) pixels and (N,) labels."""
    images = open_images("digits", split, DataConfig(channels=1, limit=most, limit_test=most))
    return images.images(range(len(images))).squeeze(1).numpy(), images.labels


def as_inputs(pixels: np.ndarray) -> torch.Tensor:
    """What the network takes: three channels, (pixel / 255 - 0.3) / 0.4."""
    return ((torch.from_numpy(pixels).float() / 255 - 0.3) / 0.4)[:, None].expand(-1, 3, -1, -1).contiguous()


def write_images(folder: Path, split: str, most: int) -> Path:
    """A folder of a folder for each digit, with a PNG for each image."""
    for i, (pixels, label) in enumerate(zip(*digits(split, most), strict=True)):
        (folder / f"digit {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"digit {label}" / f"{i:04d}.png")
    return folder


def write_checkpoints(folder: Path) -> Path:
    """Train for 30 steps; keep some checkpoints as a stranger's script would, and the last twice."""
    torch.manual_seed(0)
    folder.mkdir()
    model = ResNet(8, classes=10, width=4)
    pixels, labels = digits("train")
    inputs, targets = as_inputs(pixels), torch.from_numpy(labels)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            tensors = {f"module.{name}": value for name, value in model.state_dict().items()}
            content = {"state_dict": tensors, "global_step": step, "optimizer": optimiser.state_dict()}
            torch.save(content, folder / f"ckpt_{step}.pth")
        if step == STEPS[-1]:
            break
        chosen = torch.randint(len(inputs), (100,))
        loss = nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    safetensors.torch.save_file(model.state_dict(), folder / "last.safetensors")
    return folder


def last_model(path: str = "ck/last.safetensors") -> ResNet:
    """The network as its training left it."""
    model = ResNet(8, classes=10, width=4)
    model.load_state_dict(safetensors.torch.load_file(path))
    return model.eval()
