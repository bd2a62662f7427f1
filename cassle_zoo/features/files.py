"""Files of features, in the format of their extension. Nothing is ever unpickled."""

import csv
import importlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote_from_bytes, unquote_to_bytes

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from cassle_zoo.common.errors import ConfigError, DataError, MissingDependencyError
from cassle_zoo.common.files import atomic_write, check_folder, read_json
from cassle_zoo.features.extract import FeatureSet
from cassle_zoo.features.inputs import Skipped

# The safetensors format limits its header, where the names are, to 100 MB.
_MAX_METADATA = 99_900_000
_FOR_REASONS = 10_000_000  # bytes, why images are left out: not known before they are read
INDEX = "index.json"
FORMAT_VERSION = 1  # of folders
_PART = "part"
_PART_FILE = re.compile(r"part-[0-9]{6,}\.(safetensors|parquet)")
_URI = "file:"


def save_features(features: FeatureSet, path: str | os.PathLike[str]) -> None:
    """Write features, all or nothing: an interrupted call does not change an existing file.

    * ``.safetensors``: tensor ``features``, and further outputs by name; metadata ``sources`` and
      ``skipped`` as JSON, and ``origin``.
    * ``.npz``: arrays ``features``, ``sources``, ``skipped`` (source and reason per row), and
      ``origin``.
    * ``.csv``: columns ``source, f0, f1, ...``, exact in float32; ``skipped`` and ``origin`` are
      not saved.
      A file name that is not UTF-8 becomes a URI (``file:caf%E9.png``); so it does in ``.parquet``.
    * ``.parquet``: columns ``source`` and ``features`` (lists of fixed length); ``skipped`` as JSON
      and ``origin`` in the schema's metadata. Needs ``pip install "cassle-zoo[parquet]"``.

    Args:
        features: The features.
        path: The file; missing folders are created.

    Raises:
        ConfigError: The extension is none of the above, ``path`` is a folder, there is not one name
            for each row, or the format cannot hold the outputs: only ``.safetensors`` takes
            several, or any that is not (N, D).
        MissingDependencyError: ``.parquet`` without pyarrow.
        DataError: The file cannot be written, or there are too many names for ``.safetensors``.

    Examples:
        >>> found = cassle_zoo.extract_features(
        ...     "resnet18_cassle_simclr", "photos/", progress=False
        ... )
        >>> cassle_zoo.save_features(found, "features.safetensors")
        >>> cassle_zoo.load_features("features.safetensors").sources[:2]
        ['photos/guitar.png', 'photos/hamster.png']
    """
    path = Path(path)
    check_feature_path(path)
    _check_rows(features)
    if path.suffix.lower() != ".safetensors" and (
        len(outputs_of(features)) > 1 or features.features.ndim != 2
    ):
        raise ConfigError(
            f"{path.name!r} holds one matrix (N, D), but the outputs are "
            f"{', '.join(f'{k} {tuple(v.shape)}' for k, v in outputs_of(features).items())}; save "
            "as .safetensors."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, sync=True) as partial:
            write, _ = _format(path)
            write(features, partial)
    except OSError as error:
        raise DataError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error


def load_features(path: str | os.PathLike[str], *, part: int | None = None) -> FeatureSet:
    """Read features written by :func:`save_features` or :func:`cassle_zoo.extract_to_folder`.

    Args:
        path: The file, whose extension decides the format; or a folder of parts.
        part: The part of a folder to read, counted from 0; by default all.

    Returns:
        The features as they were saved, but without ``skipped`` and ``origin`` from ``.csv``; those
        of other types than float32 keep it in ``.safetensors``, float16 also in ``.npz`` and
        ``.parquet``, and else become float32. A part of a folder is mapped into memory: what is not
        used is not read, and changes to the tensor are not written back. If all of several parts
        are read, they are copied into one tensor.

    Raises:
        ConfigError: The extension is not one of those that :func:`save_features` writes, or there
            is no such part.
        MissingDependencyError: ``.parquet`` without pyarrow.
        DataError: The file is missing, damaged, or holds something else.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path, part)
    if part is not None:
        raise ConfigError(f"part={part}: {str(path)!r} is not a folder of parts.")
    if not path.suffix:  # a folder's name
        _require(path)
    return _load(path, _format(path)[1])


def load_part_file(path: Path) -> FeatureSet:
    """Read a part of a folder, its tensors mapped into memory if it is a .safetensors file."""
    if path.suffix == ".safetensors":
        return _load(path, lambda file: _load_safetensors(file, mapped=True))
    return _load(path, _format(path)[1])


def part_counts(path: Path) -> tuple[int, list[Skipped]]:
    """Return the number of images in a part's file, and those left out; reads no features.

    Raises:
        DataError: It is damaged.
    """
    # Foreign or damaged bytes make the parsers raise errors of many types.
    try:
        if path.suffix == ".parquet":
            _, parquet = _pyarrow()
            footer = parquet.read_metadata(path)
            return footer.num_rows, _skipped_from_json(footer.metadata[b"skipped"].decode())
        with safe_open(path, framework="pt") as file:
            names = _names(file.metadata())
    except MissingDependencyError:
        raise
    except Exception as error:
        raise DataError(
            f"the part {str(path)!r} is damaged ({error}); delete it, and the same command writes "
            "it again."
        ) from error
    return len(names["sources"]), names["skipped"]


def load_parts(folder: str | os.PathLike[str]) -> Iterator[FeatureSet]:
    """Read the parts of a folder of features one after the other, mapped into memory.

    Args:
        folder: The folder.

    Yields:
        Each part, in the order of the images.

    Raises:
        DataError: The folder holds no features, is incomplete, or is damaged.
    """
    yield from map(load_part_file, _part_files(Path(folder)))


def _load_folder(folder: Path, part: int | None) -> FeatureSet:
    files = _part_files(folder)
    if part is not None:
        if not 0 <= part < len(files):
            raise ConfigError(f"part={part}: {str(folder)!r} has parts 0 to {len(files) - 1}.")
        return load_part_file(files[part])
    if len(files) == 1:
        return load_part_file(files[0])
    # Not what the index says: rows that no part fills would hold anything.
    total = sum(part_counts(file)[0] for file in files)
    sources: list[str] = []
    skipped: list[Skipped] = []
    outputs: dict[str, torch.Tensor] = {}
    origins = set()
    for file in files:
        own = load_part_file(file)
        found = outputs_of(own)
        if not outputs:
            outputs = {k: v.new_empty(total, *v.shape[1:]) for k, v in found.items()}
        if _forms(found) != _forms(outputs):
            raise DataError(
                f"the part {str(file)!r} holds {_forms(found)}, but those before it "
                f"{_forms(outputs)}; it is of another extraction. Extract into a new folder."
            )
        skipped += own.skipped
        origins.add(own.origin)
        start, stop = len(sources), len(sources) + len(own)
        sources += own.sources
        for name, values in found.items():
            outputs[name][start:stop] = values
    # Earlier versions wrote parts without it.
    origin = origins.pop() if len(origins) == 1 else ""
    return FeatureSet(next(iter(outputs.values())), sources, skipped, outputs, origin)


def _forms(outputs: dict[str, torch.Tensor]) -> dict[str, str]:
    """Return the shape of a row, and the type, of each output."""
    return {k: f"{tuple(v.shape[1:])} {v.dtype}" for k, v in outputs.items()}


def _part_files(folder: Path) -> list[Path]:
    """Return the files of the parts of a complete folder."""
    try:
        index = read_index(folder)
        if "parts" not in index:
            count = -(-index["images"]["count"] // index["part_images"])
            there = len(list(folder.glob("part-*")))
            raise DataError(
                f"{str(folder)!r} is incomplete: {there} of {count} parts are there. The command "
                "that began it, run again, continues it; single parts can be read as files."
            )
        names = [entry["file"] for entry in index["parts"]]
    except ConfigError as error:
        raise DataError(str(error)) from error
    except (KeyError, TypeError, ArithmeticError) as error:
        raise DataError(f"{str(folder / INDEX)!r} is damaged: {error!r}.") from error
    # The folder may be a stranger's: no name leads out of it.
    wrong = [name for name in names if not isinstance(name, str) or not _PART_FILE.fullmatch(name)]
    if wrong or not names:
        raise DataError(
            f"{str(folder / INDEX)!r} names {wrong[0] if wrong else names!r} as its parts, which "
            "are part-000000.safetensors and so on; extract the features again."
        )
    return [folder / name for name in names]


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index of a folder of parts.

    Raises:
        ConfigError: There is none, or it is damaged.
    """
    path = folder / INDEX
    try:
        index = read_json(path)
        if index["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version is {index['format_version']}, not {FORMAT_VERSION}")
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(path)!r} is no index of features: {reason}.") from error
    return index


def _require(path: Path) -> None:
    if not path.is_file():
        raise DataError(
            f"There is no file or folder {str(path)!r}; `cassle-zoo features` writes features."
        )


def _load(path: Path, reader: Callable[[Path], FeatureSet]) -> FeatureSet:
    _require(path)
    # Foreign or damaged bytes make the parsers raise errors of many types.
    try:
        loaded = reader(path)
        _check_rows(loaded)
    except Exception as error:
        raise DataError(
            f"{str(path)!r} is not a file of features, or it is damaged: "
            f"{str(error).rstrip('.')}. Write it again with `cassle-zoo features`."
        ) from error
    return loaded


def _check_rows(features: FeatureSet) -> None:
    for name, values in {**features.outputs, "features": features.features}.items():
        if values.ndim < 2 or len(values) != len(features):
            raise ConfigError(
                f"{name!r} is {tuple(values.shape)}; expected ({len(features)}, ...), a row for "
                "each name in 'sources'."
            )


def check_feature_path(
    path: str | os.PathLike[str], sources: Iterable[str] = (), outputs: Sequence[str] = ()
) -> None:
    """Check that :func:`save_features` can write to a path, before features are computed.

    Args:
        path: The file.
        sources: Names of the images.
        outputs: Names of the outputs, as for :class:`cassle_zoo.Extractor`.

    Raises:
        ConfigError: The extension is not known, the format cannot hold the outputs, ``path`` is a
            folder, or its folder is not writable.
        DataError: There are too many names for ``.safetensors``.
        MissingDependencyError: ``.parquet`` without pyarrow.
    """
    path = Path(path)
    _format(path)
    if path.is_dir():
        raise ConfigError(f"{str(path)!r} is a folder; give a file.")
    if path.suffix.lower() != ".safetensors" and (
        len(outputs) > 1 or any(o == "tokens" or o.endswith(":map") for o in outputs)
    ):
        raise ConfigError(
            f"{path.name!r} holds one vector an image, but the outputs are {', '.join(outputs)}; "
            "save them as .safetensors, or as parts in a folder (FOLDER/)."
        )
    if path.suffix.lower() == ".safetensors":
        # As the header has them: in JSON, within JSON.
        _check_names(_FOR_REASONS + sum(len(json.dumps(json.dumps(name))) for name in sources))
    # A pipe or device is written to directly.
    if not path.exists() or path.is_file():
        check_folder(Path(os.path.realpath(path)).parent, "-o")


def outputs_of(features: FeatureSet) -> dict[str, torch.Tensor]:
    """Return the outputs by name; if none is named, `features` under that name."""
    return features.outputs or {"features": features.features}


def _save_safetensors(features: FeatureSet, path: Path) -> None:
    metadata = {"sources": json.dumps(features.sources), "skipped": _skipped_to_json(features)}
    metadata |= {"output": _first_output(features), "origin": features.origin}
    _write_safetensors(features, path, metadata)


def save_part_safetensors(features: FeatureSet, path: Path, **more: Any) -> None:
    """Write a part; equal features give equal bytes.

    Args:
        features: The part.
        path: The file.
        **more: Further JSON values, which :func:`load_more` returns.
    """
    # One entry of metadata, since safetensors writes several in a random order.
    skipped = [astuple(skip) for skip in features.skipped]
    first = _first_output(features)
    names = {"sources": features.sources, "skipped": skipped, "output": first}
    names |= {"origin": features.origin, **more}
    _write_safetensors(features, path, {_PART: json.dumps(names)})


def load_more(path: Path) -> dict[str, Any]:
    """Return everything that :func:`save_part_safetensors` wrote besides the features."""
    with safe_open(path, framework="pt") as file:
        return _names(file.metadata())


def _first_output(features: FeatureSet) -> str:
    found = (key for key, value in outputs_of(features).items() if value is features.features)
    return next(found, "features")


def _write_safetensors(features: FeatureSet, path: Path, metadata: dict[str, str]) -> None:
    _check_names(len(json.dumps(metadata)))
    outputs = {name: v for name, v in features.outputs.items() if v is not features.features}
    # They need not be one of the outputs: dataclasses.replace(found, features=...).
    outputs["features"] = features.features
    tensors = {name: values.detach().cpu().contiguous() for name, values in outputs.items()}
    # Not save_file, which lets only the owner read the file.
    path.write_bytes(save(tensors, metadata))


def _check_names(size: int) -> None:
    if size > _MAX_METADATA:
        raise DataError(
            f"the names of the images, and why some are left out, take {size:,} bytes, but a "
            f".safetensors file has room for {_MAX_METADATA:,}; write .npz or .parquet, or parts "
            "in a folder (-o FOLDER/)."
        )


def _load_safetensors(path: Path, *, mapped: bool = False) -> FeatureSet:
    with safe_open(path, framework="pt") as file:
        names = _names(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if not mapped:
        tensors = {key: values.clone() for key, values in tensors.items()}
    features = tensors.pop("features")
    outputs = {names["output"]: features, **tensors}
    return FeatureSet(
        features, names["sources"], names["skipped"], outputs, str(names.get("origin", ""))
    )


def _names(metadata: dict[str, str] | None) -> dict[str, Any]:
    metadata = metadata or {}
    if _PART in metadata:
        names = json.loads(metadata[_PART])
        skipped = [Skipped(*_strings(pair)) for pair in names["skipped"]]
        return {**names, "sources": _strings(names["sources"]), "skipped": skipped}
    return {
        "output": metadata.get("output", "features"),
        "origin": metadata.get("origin", ""),
        "sources": _strings(json.loads(metadata["sources"])),
        "skipped": _skipped_from_json(metadata.get("skipped", "[]")),
    }


def _save_npz(features: FeatureSet, path: Path) -> None:
    skipped = np.array([astuple(skip) for skip in features.skipped], dtype=np.str_)
    with path.open("wb") as file:
        np.savez(
            file,
            features=_matrix(features).numpy(),
            sources=np.array(features.sources, dtype=np.str_),
            skipped=skipped.reshape(-1, 2),
            origin=np.array(features.origin, dtype=np.str_),
        )


def _load_npz(path: Path) -> FeatureSet:
    with np.load(path, allow_pickle=False) as arrays:
        features = torch.from_numpy(_floats(arrays["features"]))
        sources = _strings(arrays["sources"].astype(np.str_).tolist())
        skipped = [Skipped(*row) for row in arrays["skipped"].tolist()]
        origin = str(arrays["origin"]) if "origin" in arrays else ""
    return FeatureSet(features, sources, skipped, origin=origin)


def _save_csv(features: FeatureSet, path: Path) -> None:
    matrix = _matrix(features).numpy()
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", *(f"f{column}" for column in range(matrix.shape[1]))])
        for source, row in zip(features.sources, matrix, strict=True):
            writer.writerow([as_text(source), *(format(value, ".9g") for value in row)])


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


def save_parquet(features: FeatureSet, path: Path) -> None:
    """Write a .parquet file as :func:`save_features` does; a part of a folder is the same."""
    pa, parquet = _pyarrow()
    matrix = _matrix(features).numpy()
    names = [as_text(source) for source in features.sources]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    table = pa.table({"source": pa.array(names, pa.string()), "features": vectors})
    table = table.replace_schema_metadata(
        {"skipped": _skipped_to_json(features), "origin": features.origin}
    )
    parquet.write_table(table, path)


def _load_parquet(path: Path) -> FeatureSet:
    _, parquet = _pyarrow()
    table = parquet.read_table(path)
    vectors = table["features"].combine_chunks()
    width = vectors.type.list_size
    # A copy, since tensors cannot be read-only.
    matrix = _floats(vectors.flatten().to_numpy(zero_copy_only=False)).reshape(-1, width).copy()
    metadata = table.schema.metadata or {}
    skipped = _skipped_from_json(metadata.get(b"skipped", b"[]").decode())
    origin = metadata.get(b"origin", b"").decode()
    sources = [_from_text(name) for name in table["source"].to_pylist()]
    return FeatureSet(torch.from_numpy(matrix), sources, skipped, origin=origin)


def as_text(source: str) -> str:
    """Return a name as valid text: a name that is not UTF-8 becomes a URI."""
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
    ".parquet": (save_parquet, _load_parquet),
}


def _format(path: Path) -> _Format:
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise ConfigError(
            f"{path.name!r} has the extension {path.suffix!r}; files of features have "
            f"{', '.join(_FORMATS)}, and folders of features end with '/' (FOLDER/)."
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
    matrix = features.features.detach().cpu().contiguous()
    return matrix.float() if matrix.dtype == torch.bfloat16 else matrix  # NumPy has no such type


def _floats(values: Any) -> Any:
    kept = values.dtype in (np.float16, np.float32)
    return values if kept else values.astype(np.float32, casting="same_kind")


def _skipped_to_json(features: FeatureSet) -> str:
    return json.dumps([astuple(skip) for skip in features.skipped])


def _skipped_from_json(text: str) -> list[Skipped]:
    return [Skipped(*_strings(pair)) for pair in json.loads(text)]


def _strings(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("the names are not a list of texts")
    return values
