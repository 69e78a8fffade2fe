"""What `vestige.ablate` says of arguments that make no sense."""

import pytest
import torch

import vestige
from vestige.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


BAD = {
    "value": (
        {"value": "nought"},
        "ablating neurons: there is no value 'nought'. Choose one of 'zero', 'mean', 'resample'.",
    ),
    "mode": ({"mode": "exactly"}, "ablating neurons: there is no mode 'exactly'. Did you mean 'exact'?"),
    "precision": ({"precision": 1.0}, "ablating neurons: precision is 1.0. Give a number above 1, such as 1.1."),
    "memory": (
        {"memory": "1 banana"},
        "reading the memory limit: '1 banana' is no amount of memory. Write bytes, '4GiB' or '500MB'.",
    ),
    "no memory": (
        {"memory": 0},
        "reading the memory limit: '0' is no amount of memory. Write bytes, '4GiB' or '500MB'.",
    ),
    "neuron": (
        {"neurons": {"layer1.0": [0, 8]}},
        "choosing neurons to ablate: layer 'layer1.0' has no neuron 8. Its neurons are 0 to 7.",
    ),
    "no index": (
        {"neurons": {"layer1.0": ["first"]}},
        "choosing neurons to ablate: layer 'layer1.0' has no neuron 'first'. Its neurons are 0 to 7.",
    ),
    "none": (
        {"neurons": {"layer1.0": []}},
        "choosing neurons to ablate: none is named. Name one at least, or leave it out for all.",
    ),
    "no table": (
        {"neurons": 3},
        "choosing neurons to ablate: neurons is a int. Give a table with the columns layer and neuron.",
    ),
    "groups": (
        {"groups": {"layer": ["layer1.0"], "neuron": [0]}},
        "reading the groups of neurons: the table has no column 'group', but layer and neuron. "
        "Give a table with the columns layer, neuron and group.",
    ),
    "no groups": (
        {"groups": {"layer": [], "neuron": [], "group": []}},
        "reading the groups of neurons: the table has no row. Give a row for each neuron of a group.",
    ),
    "per_input": (
        {"per_input": True},
        "ablating neurons: per_input=True without a folder. Give a folder, and mode='exact'.",
    ),
    "both": (
        {"held_out": True, "ranking_data": (torch.zeros(1), torch.zeros(1))},
        "ablating neurons: both ranking_data and held_out=True. Give one of them.",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense_is_said(model, images, name):
    options, message = BAD[name]
    with pytest.raises(ConfigError) as caught:
        vestige.ablate(model, images, **options)
    assert str(caught.value) == message


def test_an_unknown_layer_is_said(model, images):
    for options in ({"neurons": {"layer9": [0]}}, {"groups": {"layer": ["layer9"], "neuron": [0], "group": [0]}}):
        with pytest.raises(ValueError, match="layer9"):
            vestige.ablate(model, images, **options)


def test_data_that_can_be_read_once_are_refused(model, images):
    with pytest.raises(DataError, match="can be read only once"):
        vestige.ablate(model, iter([images]))


def test_neurons_in_columns_of_unequal_length_are_said_before_any_work(model):
    with pytest.raises(ConfigError) as caught:
        vestige.ablate(model, None, neurons={"layer": ["layer1.0"], "neuron": [0, 1]})
    assert str(caught.value) == (
        "choosing neurons to ablate: the columns layer and neuron have 1 and 2 rows. Give columns of equal length."
    )
