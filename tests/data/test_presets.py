"""How models want their inputs: the same pixels as torchvision's and timm's own transforms make."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torchvision.models import ResNet50_Weights, get_model_weights

from vestige.config import DataConfig
from vestige.data.decode import fit
from vestige.data.presets import caveat, parse_preprocess, preset
from vestige.data.transforms import normalise
from vestige.errors import ConfigError


def prepared(picture: Image.Image, fields: dict) -> torch.Tensor:
    config = DataConfig(**fields)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    view = fit(pixels, config.size, config.resize, config.interpolation)
    return normalise(view[None], config.mean, config.std)[0]


@pytest.fixture(scope="module", params=[(301, 260), (250, 400)])
def picture(request) -> Image.Image:
    """Smooth colours with noise, as large as photographs of ImageNet."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).resize(request.param)
    noise = rng.integers(-20, 20, (*request.param[::-1], 3))
    return Image.fromarray((np.asarray(small) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("name", ["resnet50", "vit_b_16", "swin_t", "efficientnet_b0", "regnet_y_400mf"])
def test_torchvision(picture, name):
    weights: Any = get_model_weights(name)
    expected = weights.DEFAULT.transforms()(picture)
    assert torch.allclose(prepared(picture, parse_preprocess("auto", f"torchvision:{name}")), expected, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["resnet50", "vit_small_patch16_224", "convnext_atto", "mobilevit_s", "resnet50.tv_in1k"]
)
def test_timm(picture, name):
    cfg: Any = timm.get_pretrained_cfg(name)
    transform: Any = create_transform(**resolve_data_config(pretrained_cfg=cfg.to_dict()))
    expected = transform(picture)
    found = prepared(picture, parse_preprocess("auto", f"timm:{name}"))
    assert torch.allclose(found, expected, atol=1e-5)


def test_weights_tell_which_preparation():
    def resize(weights: str | None) -> int:
        return parse_preprocess("auto", "torchvision:resnet50", weights)["resize"]

    assert resize(None) == resize("/x/mine.pt") == 232
    assert resize("/x/" + ResNet50_Weights.IMAGENET1K_V1.url.rpartition("/")[2]) == 256


def test_presets():
    assert DataConfig(**preset("imagenet")) == DataConfig(
        size=224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    none = DataConfig(**preset("none"))
    assert torch.equal(normalise(pixels, none.mean, none.std), pixels / 255)
    assert fit(pixels[0], none.size, none.resize).equal(pixels[0])


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("imagenet", {}),
        ("imagenet,size=112", {"size": 112, "resize": 128}),
        ("imagenet,size=96,resize=96", {"size": 96, "resize": 96}),
        ("imagenet, resize = none", {"resize": None}),
        ("imagenet,mean=0.5,0.4,0.3,std=0.5", {"mean": (0.5, 0.4, 0.3), "std": (0.5,)}),
        ("imagenet,interpolation=bicubic,channels=3", {"interpolation": "bicubic"}),
    ],
)
def test_overrides(text, changed):
    assert parse_preprocess(text, "mine.py:net") == {**preset("imagenet"), **changed}


def test_all_said_needs_no_preset():
    assert parse_preprocess("size=64,mean=0.1,std=0.2", "mine.py:net") == {
        "size": 64,
        "resize": None,
        "mean": (0.1,),
        "std": (0.2,),
    }


OBLONG = "vit_base_patch16_sapiens2"
"""timm's one model with inputs that are not square."""


@pytest.mark.parametrize(
    ("text", "model", "message"),
    [
        ("imgenet", "x.py:y", "unknown preset 'imgenet'. Did you mean 'imagenet'?"),
        ("auto,men=1", "timm:resnet18", "unknown field 'men'. Did you mean 'mean'?"),
        ("imagenet,size=big", "x.py:y", "size is 'big'. Give a whole number."),
        ("imagenet,std=1,x", "x.py:y", "std is '1,x'. Give numbers."),
        ("imagenet,size=3,4", "x.py:y", "'4' is no FIELD=VALUE. Write size=224,mean=0.5,0.5,0.5."),
        ("imagenet,mean=1,2", "x.py:y", "mean has 2 values for 3 channels. Mend --preprocess."),
        ("imagenet,resize=100", "x.py:y", "resize 100 is less than size 224. Resize to the size of the crop or more."),
        ("imagenet,interpolation=cubic", "x.py:y", "interpolation: Input should be 'bilinear' or 'bicubic'. "),
        ("auto", "x.py:y", "'auto' knows the models of torchvision and timm, and not 'x.py:y'. Say how its inputs "),
        ("auto", "torchvision:resnet5", "unknown model 'torchvision:resnet5'. Did you mean 'torchvision:resnet50'"),
        ("auto", "timm:resnet5", "unknown model 'timm:resnet5'. Did you mean 'timm:resnet5"),
        pytest.param(
            "",
            f"timm:{OBLONG}",
            f"'timm:{OBLONG}' takes inputs of 1024 x 768 pixels. ",
            marks=pytest.mark.skipif(not timm.is_model(OBLONG), reason=f"this timm has no {OBLONG}"),
        ),
    ],
)
def test_mistakes(text, model, message):
    with pytest.raises(ConfigError) as caught:
        parse_preprocess(text, model)
    assert str(caught.value).startswith(f"reading --preprocess: {message}")


def test_caveats():
    squashed = next(n for n in timm.list_models() if (c := timm.get_pretrained_cfg(n)) and c.crop_mode == "squash")
    assert caveat(f"timm:{squashed}") == (
        f"timm evaluates timm:{squashed} with crop mode 'squash'; here images are resized and centre-cropped"
    )
    assert caveat("timm:resnet50") == caveat("torchvision:resnet50") == caveat("x.py:y") == ""
