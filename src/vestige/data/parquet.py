"""Images in a Hugging Face Parquet file: columns `image{bytes,path}` and `label`, class names in metadata."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

from vestige.data.sources import Source
from vestige.errors import DataError


def parquet_source(path: Path, doing: str, *, strict: bool = True) -> Source:
    """The images of a Parquet file, in the order of its rows; encoded, they are held in memory.

    Args:
      path: of the file. Column `image`: binary, or a struct with a binary field `bytes`; `label`: whole
        numbers from 0. Where the metadata has no class names, the numbers serve.
      doing: for the message.
      strict: a row without an image is an error; else it is noted as unreadable.

    Raises:
      DataError: it is not a Parquet file, lacks a column, or a row lacks image or label.
    """
    try:
        schema = pq.read_schema(path)
        _check_columns(schema, doing)
        table = pq.read_table(path, columns=["image", "label"])
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the system's, not Arrow's
        reason = " ".join(str(error).split())
        raise DataError(
            doing, found=f"not a whole Parquet file ({reason})", remedy="Give a Parquet file of images"
        ) from error
    images = table["image"]
    if pa.types.is_struct(images.type):
        images = images.flatten()[images.type.get_field_index("bytes")]
    empty = np.flatnonzero(images.is_null().to_numpy()).tolist() if images.null_count else []
    unreadable = {row: f"row {row} of {path} holds no image bytes" for row in empty}
    if strict and empty:
        raise DataError(doing, found=unreadable[empty[0]], remedy="Embed the images in the file")
    labels, names = _labels(table["label"], schema, path, doing)
    chunks = images.chunks
    starts = np.cumsum([0, *map(len, chunks)])

    def read(i: int) -> bytes:
        chunk = int(np.searchsorted(starts, i, side="right")) - 1
        return chunks[chunk][i - int(starts[chunk])].as_py()

    return Source(names, labels, read, lambda i: f"row {i} of {path}", unreadable)


def _check_columns(schema: pa.Schema, doing: str) -> None:
    missing = [name for name in ("image", "label") if name not in schema.names]
    if missing:
        raise DataError(
            doing,
            found=f"no column {' and no column '.join(map(repr, missing))} among {schema.names}",
            remedy="Name the column of images 'image' and that of class indices 'label'",
        )
    kind, field = schema.field("image").type, _field(schema.field("image").type)
    if field is None or not (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)):
        raise DataError(
            doing,
            found=f"column 'image' is of type {kind}",
            remedy="Give encoded images: a binary column, or a struct with a binary field 'bytes'",
        )
    if not pa.types.is_integer(schema.field("label").type):
        raise DataError(
            doing,
            found=f"column 'label' is of type {schema.field('label').type}",
            remedy="Give class indices from 0",
        )


def _field(kind: pa.DataType) -> pa.Field | None:
    """The field that holds the image files."""
    if not pa.types.is_struct(kind):
        return pa.field("bytes", kind)
    return next((field for field in kind if field.name == "bytes"), None)


def _labels(column: pa.ChunkedArray, schema: pa.Schema, path: Path, doing: str) -> tuple[np.ndarray, tuple[str, ...]]:
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise DataError(doing, found=f"row {row} of {path} has no label", remedy="Label it, or remove it")
    labels = column.to_numpy().astype(np.int64)
    names = _class_names(schema) or tuple(str(c) for c in range(labels.max(initial=-1) + 1))
    if wrong := np.flatnonzero((labels < 0) | (labels >= len(names))).tolist():
        raise DataError(
            doing,
            found=f"row {wrong[0]} of {path} has label {labels[wrong[0]]}, of {len(names)} classes",
            remedy=f"Give class indices from 0 to {len(names) - 1}",
        )
    return labels, names


def _class_names(schema: pa.Schema) -> tuple[str, ...]:
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in info["info"]["features"]["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return ()
