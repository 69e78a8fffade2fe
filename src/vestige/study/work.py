"""Doing one work unit in a worker process: train a run, or make the tables of a checkpoint."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import polars as pl
import torch

from vestige.config import DataConfig
from vestige.data.datasets import ImageSet, balanced_indices, open_images
from vestige.data.fingerprint import dataset_name
from vestige.data.loader import Tile, recalibration_batches, tiles
from vestige.errors import StoreError
from vestige.measurement.ablation import ablate_neurons
from vestige.measurement.cumulative import ablate_cumulatively, rank, split_halves
from vestige.measurement.linearity import measure_linearity
from vestige.measurement.network import Network
from vestige.measurement.selectivity import measure_selectivity
from vestige.models.batchnorm import recalibrate
from vestige.models.zoo import build
from vestige.runs.manifest import Manifest, read_manifest, record_artifacts
from vestige.runs.store import RunFolder, StudyFolder, damaged, file_hash, read_tensors, write_table
from vestige.runs.tables import conform
from vestige.study.plan import Job, Plan, Unit
from vestige.training.loop import Parent, train_run
