"""Where maps lie in memory: on a CPU, channels last if a network's convolutions are on large maps.

How large, is the number of positions of the maps that convolutions give, its geometric mean over multiply-adds. From
some 250 on, torchvision's networks run in 0.7 to 0.9 of the time; below, it may be slower (`bench/layouts.py`).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vestige.models.graph import Graph
from vestige.models.operations import Operation

LARGE = 256


def lay_out(graph: Graph, inputs: Any) -> bool:
    """Lay out a measurement copy's weights for speed; return whether anything was changed."""
    on_cpu = all(parameter.device.type == "cpu" for parameter in graph.module.parameters())
    if not on_cpu or mean_positions(graph, graph.operations(inputs)) < LARGE:
        return False
    graph.to(memory_format=torch.channels_last)
    return True


def mean_positions(graph: Graph, operations: Mapping[str, Operation]) -> float:
    """Positions of the maps of 2d convolutions, geometric mean weighted by multiply-adds; 0 without any."""
    total = weighted = 0.0
    for node in graph.module.graph.nodes:
        module = graph.submodule(node) if node.op == "call_module" and node.name in operations else None
        if isinstance(module, nn.Conv2d) and math.prod(shape := operations[node.name].shape[1:]):
            multiply_adds = module.weight[0].numel() * math.prod(shape)
            total += multiply_adds
            weighted += multiply_adds * math.log(math.prod(shape[-2:]))
    return math.exp(weighted / total) if total else 0.0
