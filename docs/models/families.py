"""Which model families vestige can look into, tried: writes the table of README.md beside it.

    python docs/models/families.py && python docs/references.py

For each module of timm.models, and of torchvision.models, one small model with random weights is looked into,
in a process of its own; `--only NAME` tries one of them and prints what it found.
"""

import argparse
import datetime
import json
import multiprocessing
import platform
import re
import resource
from collections import Counter
from pathlib import Path

SECONDS, BYTES, PARAMETERS, SIDE = 120, 16 << 30, 150e6, 64
SMALL = (
    *(
        "atto",
        "femto",
        "pico",
        "xxs",
        "xx_small",
        "xxsmall",
        "nano",
        "micro",
        "mini",
        "tiny",
        "_xs",
        "x_small",
        "xsmall",
    ),
    *("_n0", "_t0", "_s0", "_m0", "_b0", "_f0", "_l0", "000", "002", "004", "_t", "_s", "small", "_p"),
)


def main() -> None:
    """Try one model, or all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="timm:NAME or torchvision:NAME")
    only = parser.parse_args().only
    if only:
        print(json.dumps(tried(only)))
        return
    import torch

    from vestige.models import listing  # noqa: F401  # imported once, before the processes fork

    torch.set_num_threads(1)
    rows = [attempt(family, models) for family, models in families()]
    Path(__file__).with_name("README.md").write_text(page(rows))


def families() -> list[tuple[str, list[str]]]:
    """Each family, and a few models of it, the smallest (by name) first."""
    import timm
    import torchvision

    found = []
    for module in timm.list_modules():
        names = [name for name in timm.list_models(module=module) if not name.startswith("test_")]
        if names:
            found.append((f"timm {module}", [f"timm:{name}" for name in sorted(names, key=smallness)[:3]]))
    by_module: dict[str, list[str]] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        by_module.setdefault(torchvision.models.get_model_builder(name).__module__, []).append(name)
    for module, names in by_module.items():
        names.sort(key=lambda name: next(iter(torchvision.models.get_model_weights(name))).meta["num_params"])
        found.append((f"torchvision {module.rpartition('.')[2]}", [f"torchvision:{names[0]}"]))
    return found


def smallness(name: str) -> tuple:
    """A guess from its name at how small a model is among its kin."""
    size = re.search(r"\d+", name)
    return (
        next((place for place, word in enumerate(SMALL) if word in name), len(SMALL)),
        int(size.group()) if size else 0,
        len(name),
        name,
    )


def attempt(family: str, models: list[str]) -> dict:
    """Try the models of a family until one is small enough, in processes of their own."""
    row: dict = {}
    for model in models:
        row = in_a_process(model) | {"family": family, "model": model.partition(":")[2]}
        if "problem" not in row:
            break
    print(json.dumps(row), flush=True)
    return row


def in_a_process(model: str) -> dict:
    """What trying a model gave, or the problem; the libraries are imported once, before."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=lambda: there.send(limited(model)))
    process.start()
    there.close()
    row = {"problem": f"not done in {SECONDS} s"}
    if here.poll(SECONDS):
        try:
            row = here.recv()
        except EOFError:
            row = {"problem": "the process ended without a word"}
    process.kill()
    process.join()
    return row


def limited(model: str) -> dict:
    """What trying a model gave, or the problem, with bounded memory."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    try:
        return tried(model)
    except Exception as error:
        return {"problem": f"{type(error).__name__}: {error}"[:300]}


def tried(name: str) -> dict:
    """Look into a model, and compare with the model itself and with hooks set by hand."""
    import torch

    from vestige.errors import ModelError
    from vestige.models.layers import find_layers
    from vestige.models.observing import logits_of, observe

    torch.set_num_threads(1)
    model, inputs = built(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        network = observe(model, inputs)
        layers = find_layers(network, inputs)
    except ModelError as error:
        return {"way": "not supported", "note": str(error)}
    readers = {layer.node: torch.clone for layer in layers}
    with torch.no_grad():
        output, values = network.observing(readers)(inputs)
        expected, hooked = by_hooks(model, [layer.name for layer in layers], inputs)
        logits, expected = logits_of(output), logits_of(expected)
    wrong = [
        layer.name
        for layer in layers
        if (layer.name in hooked and not close(values[layer.node], hooked[layer.name]))
        or values[layer.node].shape[0] != len(inputs)
        or values[layer.node].shape[layer.axis] != layer.units
    ]
    unlike = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    return {
        "way": "traced" if network.traced else "as it runs",
        "layers": len(layers),
        "neurons": sum(layer.units for layer in layers),
        "why": dict(Counter(layer.why for layer in layers)),
        "axes": sorted(
            {"last" if layer.axis == values[layer.node].ndim - 1 > 1 else str(layer.axis) for layer in layers}
        ),
        "difference": float((logits - expected).abs().max() / expected.abs().max()),
        "checked": len(hooked),
        "wrong": wrong + unlike,
        "note": " ".join(note for note in (network.note, layers.note) if note),
    }


def built(name: str):
    """A model in eval mode with random weights, none nearly zero; and two inputs, small where it takes them."""
    import timm
    import torch
    import torchvision

    kind, _, name = name.partition(":")
    torch.manual_seed(0)
    if kind == "timm":
        model = timm.create_model(name).eval()
        cfg = model.pretrained_cfg
        channels, size, _ = cfg["input_size"]
        size = size if cfg.get("fixed_input_size") else min(size, SIDE)
    else:
        model, channels, size = torchvision.models.get_model(name, weights=None).eval(), 3, SIDE
    if sum(p.numel() for p in model.parameters()) > PARAMETERS:
        raise ValueError("more than 150 million parameters")
    if size > 512:
        raise ValueError(f"takes images of {size} by {size}, too large to try here")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.abs().max() < 1e-3:
                parameter.normal_(0, 0.1)
        for side in (size, 128, 224, 256):
            inputs = torch.randn(2, channels, side, side)
            try:
                model(inputs)
                break
            except Exception:
                continue
    return model, inputs


def by_hooks(model, names: list[str], inputs):
    """The model's own output, and those of the modules of some names that it calls once."""
    from vestige.models.operations import tensors

    seen: dict[str, list] = {}
    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(
            lambda _m, _i, value, name=name: seen.setdefault(name, []).append(next(tensors(value)).clone())
        )
        for name in names
        if name in modules
    ]
    output = model(inputs)
    for handle in handles:
        handle.remove()
    return output, {name: values[0] for name, values in seen.items() if len(values) == 1}


def axis(layer, value) -> str:
    """The neuron axis in words."""
    return "last" if 1 < layer.axis == value.ndim - 1 else str(layer.axis)


def close(mine, theirs) -> bool:
    """Whether two activations are the same up to rounding."""
    return mine.shape == theirs.shape and float((mine - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max() + 1e-9)


def page(rows: list[dict]) -> str:
    """The table, in Markdown."""
    import timm
    import torch
    import torchvision

    ways = Counter(row.get("way", "not tried") for row in rows)
    head = f"""# Model families

Of {len(rows)} families ({sum(row["family"].startswith("timm") for row in rows)} modules of timm, \
{sum(row["family"].startswith("torchvision") for row in rows)} of torchvision): \
{", ".join(f"{n} {way}" for way, n in ways.most_common())}.

*traced*: `torch.fx` gives the graph; ablation can replay the end of the network. *as it runs*: observed in full
forwards, for the reason given. *difference*: largest difference of the logits, of two inputs, from the model's own,
relative to the largest logit. *checked*: layers whose values were compared (relative 1e-4) with those of a module
hook set by hand; the others are functions, or modules called more than once. The model's state was the same after.

Made on {datetime.date.today()} by `python docs/models/families.py` with Python {platform.python_version()}, torch \
{torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}; random weights, on a CPU.

| family | model | how | layers | neurons | rule: layers | axis | difference | checked | notes |
|---|---|---|--:|--:|---|---|--:|--:|---|
"""
    return head + "".join(line(row) for row in rows) + CITED


CITED = """
## BibTeX
The networks are those of timm and torchvision; the paper of each stands in that library's documentation.
<!-- block: bibtex wightman2019timm torchvision2016 -->
```bibtex
```
"""


def line(row: dict) -> str:
    """A row of the table."""
    if "layers" not in row:
        said = (row.get("note") or row.get("problem", "")).replace("|", "/").replace("\n", " ")
        return f"| {row['family']} | {row['model']} | {row.get('way', 'not tried')} | | | | | | | {said} |\n"
    why = ", ".join(f"{rule}: {count}" for rule, count in row["why"].items())
    wrong = f" **Differs: {', '.join(row['wrong'][:5])}.**" if row["wrong"] else ""
    cells = (
        *(row["family"], row["model"], row["way"], row["layers"], f"{row['neurons']:,}", why, ", ".join(row["axes"])),
        *(f"{row['difference']:.0e}", row["checked"], row["note"].replace("|", "/").replace("\n", " ") + wrong),
    )
    return f"| {' | '.join(map(str, cells))} |\n"


if __name__ == "__main__":
    main()
