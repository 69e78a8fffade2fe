"""Image files made from arrays: encoded, as class folders, and as Hugging Face Parquet files."""

import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet as pq


def encode(pixels: np.ndarray, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def write_folder(root: Path, digits, classes: Iterable[int], each: int, *, ending: str = ".png", size: int = 8):
    """`each` digits of every class, enlarged to `size`, as class folders."""
    images, labels = digits
    for c in classes:
        (root / f"digit-{c}").mkdir(parents=True)
        for k, row in enumerate(np.flatnonzero(labels == c)[:each]):
            picture = Image.fromarray(images[row]).resize((size, size), Image.Resampling.BICUBIC)
            picture.save(root / f"digit-{c}" / f"{k:03}{ending}")
    return root


def write_parquet(path: Path, images: list, labels: list, names: list[str] | None = None, kind=None) -> Path:
    """A Hugging Face Parquet file, in two row groups."""
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [None if x is None else {"bytes": x, "path": f"{i}.png"} for i, x in enumerate(images)]
    table = pa.table({"image": pa.array(rows, struct), "label": pa.array(labels, kind)})
    if names is not None:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, row_group_size=max(1, len(rows) // 2))
    return path
