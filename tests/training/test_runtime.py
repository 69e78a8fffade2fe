"""What a session of training sets, and puts back."""

import pytest
import torch

from vestige.config import ComputeConfig
from vestige.training.runtime import deterministic, session


def test_on_a_gpu_algorithms_are_deterministic_and_put_back(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic(on=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with deterministic(on=False):
            assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_threads_and_random_numbers_are_put_back_even_after_an_error():
    threads, drawn = torch.get_num_threads(), torch.random.get_rng_state()
    with pytest.raises(KeyError), session(ComputeConfig(device="cpu", threads=threads + 1)):
        assert torch.get_num_threads() == threads + 1
        torch.rand(3)
        raise KeyError
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), drawn)
