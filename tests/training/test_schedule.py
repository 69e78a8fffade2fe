"""When things happen in training, against counts by hand."""

import subprocess
import sys

import pytest
import torch

from vestige.config import Eta2PenaltyConfig, RecipeConfig, ScheduleConfig, Window
from vestige.errors import ConfigError
from vestige.training.schedule import checkpoint_steps, learning_rate, onset, steps_in_epoch, window_steps


def test_planning_needs_no_torch():
    code = "import sys, vestige.training.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("images", "batch", "steps"), [(500, 50, 10), (501, 50, 11), (3, 50, 1)])
def test_last_smaller_batch_is_a_step(images, batch, steps):
    assert steps_in_epoch(images, batch) == steps


def rates(recipe, steps_per_epoch):
    return [learning_rate(recipe, step, steps_per_epoch) for step in range(recipe.epochs * steps_per_epoch)]


def test_step_schedule_divides_at_the_start_of_an_epoch():
    recipe = RecipeConfig(epochs=4, lr=0.5, schedule="step", step_epochs=(2, 3))
    assert rates(recipe, 2) == pytest.approx([0.5] * 4 + [0.05] * 2 + [0.005] * 2)


def test_constant_schedule_with_linear_warmup():
    recipe = RecipeConfig(epochs=2, lr=1.0, schedule="constant", warmup_epochs=1)
    assert rates(recipe, 4) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0])


def test_cosine_schedule_is_that_of_torch():
    recipe = RecipeConfig(epochs=3, lr=0.3, schedule="cosine")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    witness = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=15)
    expected = []
    for _ in range(15):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        witness.step()
    assert rates(recipe, 5) == pytest.approx(expected)


def test_cosine_begins_after_warmup():
    recipe = RecipeConfig(epochs=2, lr=1.0, schedule="cosine", warmup_epochs=0.5)
    assert rates(recipe, 4)[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates(recipe, 4)[5] == pytest.approx(0.5)  # half way through the 6 steps after warmup


SCHEDULES = {
    "log-spaced, young, then every epoch": (
        ScheduleConfig(log_spaced=4, young_epochs=2, per_young_epoch=2, every_epochs=1),
        (8, 4),
        [0, 1, 2, 4, 8, 12, 16, 24, 32],
    ),
    "sparse, but for the last three epochs": (
        ScheduleConfig(log_spaced=None, young_epochs=0, every_epochs=5),
        (10, 12),
        [0, 50, 100, 110, 120],
    ),
    "shorter than its youth": (
        ScheduleConfig(log_spaced=None, young_epochs=9, per_young_epoch=1),
        (3, 2),
        [0, 3, 6],
    ),
    "one step in all": (ScheduleConfig(), (1, 1), [0, 1]),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_checkpoint_steps(case):
    schedule, (steps_per_epoch, epochs), expected = SCHEDULES[case]
    assert checkpoint_steps(schedule, steps_per_epoch, epochs) == expected


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (Window(), (0, 100)),
        (Window(start=3, stop=7), (3, 7)),
        (Window(start=0.5, stop=2, unit="epochs"), (5, 20)),
        (Window(start=2, unit="epochs"), (20, 100)),
        (Window(start=99, stop=100), (99, 100)),
    ],
)
def test_window_steps(window, expected):
    assert window_steps(window, 10, 100) == expected


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (
            Window(start=100),
            "placing the window [100, end) steps: "
            "it starts at step 100, but training has 100 steps (10 epochs). "
            "Start the window earlier, or train longer (recipe.epochs).",
        ),
        (
            Window(start=5, stop=11, unit="epochs"),
            "placing the window [5, 11) epochs: it ends at step 110, but training has 100 steps (10 epochs). "
            "End it earlier (without `stop`: the end of training), or train longer (recipe.epochs).",
        ),
        (
            Window(start=0, stop=0.01, unit="epochs"),
            "placing the window [0, 0.01) epochs: it holds no step: it starts at step 0 and ends at step 0. "
            "Make it longer: an epoch has 10 steps.",
        ),
    ],
)
def test_window_outside_training(window, message):
    with pytest.raises(ConfigError) as error:
        window_steps(window, 10, 100)
    assert str(error.value) == message


def test_onset_is_the_first_step_at_which_anything_acts():
    late, later = (Eta2PenaltyConfig(window=Window(start=s)) for s in (30, 60))
    assert onset((later, late), 10, 100) == 30
    assert onset((), 10, 100) is None
