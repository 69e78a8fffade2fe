"""The callback of the how-to, as it stands there, in a real training by Lightning."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import vestige

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "log-selectivity.md"


def test_it_logs_what_the_metric_gives(tmp_path):
    lightning = pytest.importorskip("lightning", reason="the callback is for Lightning, which is not installed")
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "Callback" in block)
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def validation_step(self, batch, _):
            self.model(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    torch.manual_seed(0)
    data = TensorDataset(torch.randn(40, 6), torch.arange(40) % 3)
    model = Classifier()
    trainer = lightning.Trainer(
        max_epochs=1,
        callbacks=[names["LogSelectivity"](["model.1"], num_classes=3)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(model, DataLoader(data, 20), DataLoader(data, 20))
    metric = vestige.ClassSelectivity(num_classes=3)
    with torch.no_grad():
        for start in (0, 20):
            inputs, labels = data[start : start + 20]
            metric.update({"model.1": model.model[:2](inputs)}, labels)
    expected = metric.compute()
    assert trainer.callback_metrics["selectivity/csi"].item() == pytest.approx(expected["csi"].item(), rel=1e-5)
    assert trainer.callback_metrics["selectivity/csi_cv/model.1"].item() == pytest.approx(
        expected["csi_cv/model.1"].item(), rel=1e-5
    )
