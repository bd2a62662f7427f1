"""Files of features, in the format of their extension. Nothing is ever unpickled."""

import csv
import importlib
import json
import os
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote_from_bytes, unquote_to_bytes

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from cassle_zoo.common.errors import ConfigError, DataError, MissingDependencyError
from cassle_zoo.common.files import atomic_write
from cassle_zoo.features.extract import FeatureSet
from cassle_zoo.features.inputs import Skipped

# The safetensors format limits its header, where the names are, to 100 MB.
_MAX_METADATA = 90_000_000
_URI = "file:"


def save_features(features: FeatureSet, path: str | os.PathLike[str]) -> None:
    """Write features, all or nothing: an interrupted call does not change an existing file.

    * ``.safetensors``: tensor ``features``; metadata ``sources`` and ``skipped`` as JSON.
    * ``.npz``: arrays ``features``, ``sources``, ``skipped`` (source and reason per row).
    * ``.csv``: columns ``source, f0, f1, ...``, exact to the last bit; ``skipped`` is not saved.
      A file name that is not UTF-8 is written as a URI (``file:caf%E9.png``), in Parquet as well.
    * ``.parquet``: columns ``source`` and ``features`` (lists of fixed length); ``skipped`` as JSON
      in the schema's metadata. Needs ``pip install "cassle-zoo[parquet]"``.

    Args:
        features: The features.
        path: The file; missing folders are created.

    Raises:
        ConfigError: The extension is none of the above, or ``path`` is a folder.
        MissingDependencyError: ``.parquet`` without pyarrow.
        DataError: The file cannot be written, or the names are too many for ``.safetensors``.
    """
    path = Path(path)
    check_feature_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, sync=True) as partial:
            save, _ = _format(path)
            save(features, partial)
    except OSError as error:
        raise DataError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error


def load_features(path: str | os.PathLike[str]) -> FeatureSet:
    """Read features written by :func:`save_features`.

    Args:
        path: The file; its extension decides the format.

    Returns:
        The features as they were saved, but without ``skipped`` from ``.csv``.

    Raises:
        ConfigError: The extension is not one of those that :func:`save_features` writes.
        MissingDependencyError: ``.parquet`` without pyarrow.
        DataError: The file is missing, damaged, or holds something else.
    """
    path = Path(path)
    _, reader = _format(path)
    if not path.is_file():
        raise DataError(f"There is no file {str(path)!r}.")
    # Foreign or damaged bytes make the parsers raise errors of many types.
    try:
        loaded = reader(path)
        if loaded.features.shape != (len(loaded.sources), loaded.features.shape[-1]):
            raise ValueError(
                f"{len(loaded.sources)} names, {tuple(loaded.features.shape)} features"
            )
    except Exception as error:
        raise DataError(
            f"{str(path)!r} is not a file of features, or it is damaged: {error}."
        ) from error
    return loaded


def check_feature_path(path: str | os.PathLike[str]) -> None:
    """Check that :func:`save_features` can write to a path, before features are computed.

    Args:
        path: The file.

    Raises:
        ConfigError: The extension is not known, or ``path`` is a folder.
        MissingDependencyError: ``.parquet`` without pyarrow.
    """
    path = Path(path)
    _format(path)
    if path.is_dir():
        raise ConfigError(f"{str(path)!r} is a folder; give a file.")


def _save_safetensors(features: FeatureSet, path: Path) -> None:
    metadata = {"sources": json.dumps(features.sources), "skipped": _skipped_to_json(features)}
    if sum(map(len, metadata.values())) > _MAX_METADATA:
        raise DataError(
            f"{len(features.sources)} names are too many for a .safetensors file; save as .npz or "
            ".parquet."
        )
    # Not save_file, which lets only the owner read the file.
    path.write_bytes(save({"features": _matrix(features)}, metadata))


def _load_safetensors(path: Path) -> FeatureSet:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        features = file.get_tensor("features")
    return FeatureSet(
        features.float().clone(),
        _strings(json.loads(metadata["sources"])),
        _skipped_from_json(metadata.get("skipped", "[]")),
    )


def _save_npz(features: FeatureSet, path: Path) -> None:
    skipped = np.array([astuple(skip) for skip in features.skipped], dtype=np.str_)
    with path.open("xb") as file:
        np.savez(
            file,
            features=_matrix(features).numpy(),
            sources=np.array(features.sources, dtype=np.str_),
            skipped=skipped.reshape(-1, 2),
        )


def _load_npz(path: Path) -> FeatureSet:
    with np.load(path, allow_pickle=False) as arrays:
        features = torch.from_numpy(arrays["features"].astype(np.float32, casting="same_kind"))
        sources = arrays["sources"].astype(np.str_).tolist()
        skipped = [Skipped(*row) for row in arrays["skipped"].tolist()]
    return FeatureSet(features, sources, skipped)


def _save_csv(features: FeatureSet, path: Path) -> None:
    matrix = _matrix(features).numpy()
    with path.open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", *(f"f{column}" for column in range(matrix.shape[1]))])
        for source, row in zip(features.sources, matrix, strict=True):
            writer.writerow([_as_text(source), *(format(value, ".9g") for value in row)])


def _load_csv(path: Path) -> FeatureSet:
    # Earlier versions wrote the bytes of names that are not valid text as they are.
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        header = next(rows)
        if header != ["source", *(f"f{column}" for column in range(len(header) - 1))]:
            raise ValueError("the first line is not source,f0,f1,...")
        sources, values = [], []
        for source, *numbers in rows:
            sources.append(_from_text(source))
            values.append(np.array(numbers, dtype=np.float32))
    matrix = np.stack(values) if values else np.empty((0, len(header) - 1), np.float32)
    if matrix.shape[1] != len(header) - 1:
        raise ValueError(f"{matrix.shape[1]} values in a row, {len(header) - 1} in the first line")
    return FeatureSet(torch.from_numpy(matrix), sources)


def _save_parquet(features: FeatureSet, path: Path) -> None:
    pa, parquet = _pyarrow()
    matrix = _matrix(features).numpy()
    names = [_as_text(source) for source in features.sources]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    table = pa.table({"source": pa.array(names, pa.string()), "features": vectors})
    table = table.replace_schema_metadata({"skipped": _skipped_to_json(features)})
    parquet.write_table(table, path)


def _load_parquet(path: Path) -> FeatureSet:
    _, parquet = _pyarrow()
    table = parquet.read_table(path)
    vectors = table["features"].combine_chunks()
    width = vectors.type.list_size
    matrix = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width)
    skipped = _skipped_from_json((table.schema.metadata or {}).get(b"skipped", b"[]").decode())
    sources = [_from_text(name) for name in table["source"].to_pylist()]
    return FeatureSet(torch.from_numpy(matrix), sources, skipped)


def _as_text(source: str) -> str:
    name = source.encode("utf-8", "surrogateescape")
    valid = name.decode("utf-8", "replace") == source
    return source if valid and not source.startswith(_URI) else _URI + quote_from_bytes(name)


def _from_text(text: str) -> str:
    if not text.startswith(_URI):
        return text
    return unquote_to_bytes(text.removeprefix(_URI)).decode("utf-8", "surrogateescape")


_Format: TypeAlias = tuple[Callable[[FeatureSet, Path], None], Callable[[Path], FeatureSet]]

_FORMATS: dict[str, _Format] = {
    ".safetensors": (_save_safetensors, _load_safetensors),
    ".npz": (_save_npz, _load_npz),
    ".csv": (_save_csv, _load_csv),
    ".parquet": (_save_parquet, _load_parquet),
}


def _format(path: Path) -> _Format:
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise ConfigError(
            f"{path.name!r} has the extension {path.suffix!r}; allowed are {', '.join(_FORMATS)}."
        )
    if suffix == ".parquet":
        _pyarrow()
    return _FORMATS[suffix]


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingDependencyError(
            'Parquet files need pyarrow: pip install "cassle-zoo[parquet]". Without it, use '
            ".safetensors, .npz or .csv."
        ) from error


def _matrix(features: FeatureSet) -> torch.Tensor:
    return features.features.detach().float().cpu().contiguous()


def _skipped_to_json(features: FeatureSet) -> str:
    return json.dumps([astuple(skip) for skip in features.skipped])


def _skipped_from_json(text: str) -> list[Skipped]:
    return [Skipped(*_strings(pair)) for pair in json.loads(text)]


def _strings(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("the names are not a list of texts")
    return values
