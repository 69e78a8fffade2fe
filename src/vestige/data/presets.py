"""How models want their inputs prepared, as fields of `DataConfig`: by name, or as torchvision and timm say."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vestige.config import DataConfig
from vestige.errors import ConfigError, nearest

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {
        "channels": 3,
        "size": 224,
        "resize": 256,
        "interpolation": "bilinear",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    },
    "cifar10": {
        "channels": 3,
        "size": 32,
        "resize": None,
        "interpolation": "bilinear",
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
    },
    "none": {"size": None, "resize": None, "mean": (0.0,), "std": (1.0,)},
}
"""`none`: pixels / 255, the images as they are."""
FIELDS = ("size", "resize", "mean", "std", "interpolation", "channels")
DOING = "reading --preprocess"


def preset(name: str) -> dict[str, Any]:
    """The fields of a named preset: `imagenet`, `cifar10` or `none`.

    Raises:
      ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(DOING, found=f"unknown preset {name!r}", remedy=nearest(name, ("auto", *PRESETS)))
    return dict(PRESETS[name])


def model_preset(model_name: str, weights: Path | str | None = None) -> dict[str, Any]:
    """The fields with which torchvision or timm evaluate a model.

    Args:
      model_name: `torchvision:NAME` or `timm:NAME`, which may have a tag: `timm:resnet50.a1_in1k`.
      weights: a weight file. Where its name is that of one that torchvision offers, that one's preparation is taken;
        else that of torchvision's default weights. (ResNet-50 has two, resized to 256 and to 232.)

    Raises:
      ConfigError: it is no such model, or is not said to want images that `DataConfig` can describe.
    """
    library, _, name = model_name.partition(":")
    if library == "torchvision" and name:
        return _torchvision(name, model_name, weights)
    if library == "timm" and name:
        return _timm(name, model_name)
    raise ConfigError(
        DOING,
        found=f"'auto' knows the models of torchvision and timm, and not {model_name!r}",
        remedy="Say how its inputs are prepared: --preprocess imagenet, cifar10 or none, or size=..,mean=..,std=..",
    )


def caveat(model_name: str) -> str:
    """What `model_preset` cannot do as timm does, in a sentence; empty where there is nothing to say."""
    library, _, name = model_name.partition(":")
    if library == "timm" and name:
        import timm

        way = timm.get_pretrained_cfg(name)
        mode = (way and way.crop_mode) or "center"
        if mode != "center":
            return f"timm evaluates {model_name} with crop mode {mode!r}; here images are resized and centre-cropped"
        if way and (way.crop_pct or 0) > 1:
            return f"timm pads the images for {model_name} (crop_pct {way.crop_pct:g}); here they fill the input"
    return ""


def parse_preprocess(text: str, model_name: str, weights: Path | str | None = None) -> dict[str, Any]:
    """What a command line says about the preparation of images.

    Args:
      text: `auto`, `imagenet`, `cifar10` or `none` (`auto` where it is left out), then fields of `DataConfig`, all
        between commas: `auto,size=160`, `size=224,resize=256,mean=0.5,0.5,0.5,std=0.5`. `size` without `resize` keeps
        the share that the crop has of the resized image.
      model_name: as `model_preset`.
      weights: as `model_preset`.

    Returns:
      fields of `DataConfig`.

    Raises:
      ConfigError: an unknown preset, field or value; as `model_preset`.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    name = words.pop(0) if words and "=" not in words[0] else "auto"
    given = _given(words)
    needed = {"size", "mean", "std"}
    if name == "auto" and needed <= set(given):
        fields = preset("none")  # all is said: nothing need be known of the model
    else:
        fields = model_preset(model_name, weights) if name == "auto" else preset(name)
    if given.get("size") and "resize" not in given and fields.get("resize"):
        given["resize"] = math.floor(fields["resize"] * given["size"] / fields["size"])
    return _checked({**fields, **given})


def _given(words: list[str]) -> dict[str, Any]:
    values: dict[str, list[str]] = {}
    field = ""
    for word in words:
        if "=" in word:
            field, _, word = (part.strip() for part in word.partition("="))
            if field not in FIELDS:
                raise ConfigError(DOING, found=f"unknown field {field!r}", remedy=nearest(field, FIELDS))
            values[field] = []
        elif field not in ("mean", "std"):
            raise ConfigError(DOING, found=f"{word!r} is no FIELD=VALUE", remedy="Write size=224,mean=0.5,0.5,0.5")
        values[field].append(word)
    return {field: _value(field, parts) for field, parts in values.items()}


def _value(field: str, parts: list[str]) -> Any:
    try:
        if field in ("mean", "std"):
            return tuple(float(part) for part in parts)
        if field == "interpolation":
            return parts[0]
        return None if parts[0].lower() == "none" and field != "channels" else int(parts[0])
    except ValueError as error:
        kind = "numbers" if field in ("mean", "std") else "a whole number"
        raise ConfigError(DOING, found=f"{field} is {','.join(parts)!r}", remedy=f"Give {kind}") from error


def _checked(fields: Mapping[str, Any]) -> dict[str, Any]:
    try:
        config = DataConfig(**fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"][:1]))
        raise ConfigError(
            DOING,
            found=f"{where + ': ' if where else ''}{problem['msg'].removeprefix('Value error, ')}",
            remedy="Mend --preprocess",
        ) from error
    if config.resize and config.size and config.resize < config.size:
        raise ConfigError(
            DOING,
            found=f"resize {config.resize} is less than size {config.size}",
            remedy="Resize to the size of the crop or more",
        )
    return dict(fields)


def _torchvision(name: str, model_name: str, weights: Path | str | None) -> dict[str, Any]:
    import torchvision.models as zoo

    known = zoo.list_models(module=zoo)
    if name not in known:
        near = nearest(model_name, [f"torchvision:{other}" for other in known])
        raise ConfigError(DOING, found=f"unknown model {model_name!r}", remedy=near)
    offered = zoo.get_model_weights(name)
    file = Path(weights).name if weights else ""
    chosen: Any = next((w for w in offered if Path(w.url).name == file), None) or offered.DEFAULT  # pyright: ignore[reportAttributeAccessIssue]
    way = chosen.transforms()
    return _fields(
        model_name, 3, way.crop_size[0], way.resize_size[0], way.interpolation.value, tuple(way.mean), tuple(way.std)
    )


def _timm(name: str, model_name: str) -> dict[str, Any]:
    import timm

    if not timm.is_model(name.split(".")[0]):
        near = nearest(model_name, [f"timm:{other}" for other in timm.list_models()])
        raise ConfigError(DOING, found=f"unknown model {model_name!r}", remedy=near)
    way = timm.get_pretrained_cfg(name)
    if way is None:
        raise ConfigError(
            DOING,
            found=f"timm does not say how {model_name!r} wants its inputs",
            remedy="Give --preprocess imagenet, or size=..,mean=..,std=..",
        )
    channels, height, width = way.input_size
    if height != width:
        raise ConfigError(
            DOING, found=f"{model_name!r} takes inputs of {height} x {width} pixels", remedy="Choose a square model"
        )
    resize = max(height, math.floor(height / (way.crop_pct or 0.875)))
    return _fields(model_name, channels, height, resize, way.interpolation, tuple(way.mean), tuple(way.std))


def _fields(
    model_name: str, channels: int, size: int, resize: int, interpolation: str, mean: tuple, std: tuple
) -> dict[str, Any]:
    if interpolation not in ("bilinear", "bicubic"):
        raise ConfigError(
            DOING,
            found=f"{model_name!r} is evaluated with {interpolation} interpolation",
            remedy="Give --preprocess imagenet, or size=..,interpolation=bicubic,mean=..,std=..",
        )
    return {
        "channels": channels,
        "size": size,
        "resize": resize,
        "interpolation": interpolation,
        "mean": mean,
        "std": std,
    }
