"""A model from the user's own Python file: `path.py:object`."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from vestige import userfile
from vestige.errors import ModelError


def load_object(path: str, name: str) -> Any:
    """Run a Python file and take what is, or makes, a model from it.

    Args:
      path: of the file; it may import what lies beside it.
      name: of the object, with dots for what lies within another.

    Raises:
      ModelError: there is no such file, running it fails, or there is no such object in it.
    """
    return userfile.load_object(path, name, doing=f"building the model '{path}:{name}'", kind=ModelError)


def make_model(source: Any, name: str, settings: Mapping[str, Any], kwargs: Mapping[str, Any]) -> nn.Module:
    """Make a model from the user's object.

    Args:
      source: a network, which is copied, or what is called to make one.
      name: `path.py:object`, for the messages.
      settings: `classes`, `channels`, `size`: given as far as the signature takes them.
      kwargs: given in any case; they go before the settings.

    Raises:
      ModelError: the call fails or does not give a network.
    """
    doing = f"building the model {name!r}"
    if isinstance(source, nn.Module):
        return copy.deepcopy(source)
    if not callable(source):
        raise ModelError(
            doing,
            found=f"it is a {type(source).__name__}",
            remedy="Name a torch.nn.Module, its class, or a function that returns one",
        )
    model = userfile.call_object(
        source,
        name.rpartition(":")[0],
        {**userfile.taken(source, settings), **kwargs},
        doing=doing,
        kind=ModelError,
        remedy="Mend it, or give what it needs in model.kwargs",
    )
    if not isinstance(model, nn.Module):
        raise ModelError(
            doing,
            found=f"calling it gives a {type(model).__name__}",
            remedy="Return a torch.nn.Module from it",
        )
    return model
