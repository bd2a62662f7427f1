"""Rewrites files of cassle-zoo 0.1.0 (format 1) in the present format: `cassle-zoo upgrade`.

Results, records of the study, settings and exports of runs, and config.json of model folders are
recognised by their content. Numbers and weights stay as they are.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.files import read_json, sha256, write_bytes
from cassle_zoo.records import FORMAT_VERSION, RENAMED_SETTINGS
from cassle_zoo.store.folder import CONFIG_FILE, REFERENCE_FILE

Content = dict[str, Any]

_EVAL_OPTIONS = (("pictures", "images"), ("weight", "l2"))
# Not within names of files and folders.
_WORDS = (
    (r"(?<![\w/.-])a picture(?![\w/.-])", "an image"),
    (r"(?<![\w/.-])picture(s?)(?![\w/-])", r"image\1"),
    (r"(?<![\w/.-])data set(s?)(?![\w/-])", r"dataset\1"),
    ("the same share of every class", "the same fraction of every class"),
    ("of the labels a share of each class", "of the labels a fraction of each class"),
)


def upgrade(path: Path) -> list[Path]:
    """Rewrite a file, or every file below a folder, that is in an older format.

    In a model folder the hash of config.json in `reference.safetensors` is rewritten as well, if it
    was right; README.md is not.

    Args:
        path: A JSON file that cassle-zoo wrote, or a folder: a run, a model folder, or results.

    Returns:
        The files that were rewritten; those that are up to date are left alone, and so are other
        JSON files in a folder.

    Raises:
        DataError: If `path` does not exist, is a file not written by cassle-zoo, or if a file is
            damaged or a link; the other files of a folder are rewritten nevertheless.
        OSError: If a file cannot be read or written.
    """
    if path.is_dir():
        rewritten, damaged = [], []
        for file in sorted(path.rglob("*.json")):
            try:
                rewritten += [file] * bool(_upgrade_file(file))
            except DataError as error:
                damaged.append(str(error))
        if damaged:
            raise DataError(f"{' '.join(damaged)} All other files were upgraded.")
        return rewritten
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a file or a folder.")
    done = _upgrade_file(path)
    if done is None:
        raise DataError(
            f"{path} was not written by cassle-zoo: it is not a result, a run, a model folder's "
            "config.json or a record of the study; give a file or folder that is."
        )
    return [path] if done else []


def _upgrade_file(path: Path) -> bool | None:
    """Return whether a file was rewritten; None if it was not written by cassle-zoo."""
    try:
        content = read_json(path)
    except ValueError:
        return None
    kinds = [upgraded for keys, upgraded in _KINDS if keys <= content.keys()]
    if not kinds:
        return None
    try:
        if content.get("cassle_zoo", content).get("format_version", 1) >= FORMAT_VERSION:
            return False
        new = kinds[0](content)
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged, so it is not rewritten ({error!r}).") from error
    if new == content:
        return False
    reference = path.with_name(REFERENCE_FILE)
    if path.is_symlink() or (path.name == CONFIG_FILE and reference.is_symlink()):
        raise DataError(
            f"{path} is a link, perhaps into the Hub's cache, so it is not rewritten; get a copy "
            "with `cassle-zoo hub pull NAME -o DIR` and upgrade that."
        )
    indent = 2 if path.read_bytes().startswith(b"{\n") else None
    try:
        text = (json.dumps(new, indent=indent, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{path} is damaged, so it is not rewritten ({error}).") from error
    if path.name == CONFIG_FILE and reference.is_file():
        # The header holds hashes in hexadecimal digits, so its length stays. Written first: if the
        # second write fails, the next upgrade goes on from here.
        content_before = reference.read_bytes()
        hash_before, hash_after = sha256(path), sha256(text)
        write_bytes(reference, content_before.replace(hash_before.encode(), hash_after.encode(), 1))
    write_bytes(path, text)
    return True


def _result(content: Content) -> Content:
    new = {key: value for key, value in content.items() if key not in ("schema", "format_version")}
    new["protocol"] = _in_todays_words(new["protocol"])
    new["command"] = _command(new["command"])
    return {"format_version": FORMAT_VERSION, **new}


def _record(content: Content) -> Content:
    return {
        "format_version": FORMAT_VERSION,
        **content,
        "settings": _settings(content["settings"]),
        "results": {task: _result(own) for task, own in content["results"].items()},
    }


def _export(content: Content) -> Content:
    return {
        "format_version": FORMAT_VERSION,
        **content,
        "training": _training(content["training"]),
    }


def _model_config(content: Content) -> Content:
    own = content["cassle_zoo"]
    own = {**own, "format_version": FORMAT_VERSION, "training": _training(own["training"])}
    return {**content, "cassle_zoo": own}


def _run_settings(content: Content) -> Content:
    return {"images" if k == "pictures" else k: v for k, v in _settings(content).items()}


def _training(training: Mapping[str, Any]) -> Content:
    new = dict(training)
    if "config" in new:
        new["config"] = _settings(new["config"])
    if "command" in new:
        new["command"] = _command(new["command"])
    return new


def _settings(settings: Mapping[str, Any]) -> Content:
    """Return nested settings under today's names, in the same order."""
    sections = {old.split(".")[0] for old in RENAMED_SETTINGS}
    return {
        section: {_name(f"{section}.{k}").split(".")[1]: v for k, v in values.items()}
        if section in sections and isinstance(values, Mapping)
        else values
        for section, values in settings.items()
    }


def _name(setting: str) -> str:
    return RENAMED_SETTINGS.get(setting, setting)


def _command(command: str) -> str:
    command = command.replace("cassle-zoo reproduce study ", "python -m benchmarks.study run ")
    for old, new in (*RENAMED_SETTINGS.items(), *_EVAL_OPTIONS):
        option = re.escape(old).replace("_", "[_-]")
        command = re.sub(rf"--{option}(?![\w-])", f"--{new.replace('_', '-')}", command)
    return command


def _in_todays_words(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _in_todays_words(own) for key, own in value.items()}
    if isinstance(value, str):
        for old, new in _WORDS:
            value = re.sub(old, new, value)
    return value


_KINDS: tuple[tuple[set[str], Callable[[Content], Content]], ...] = (
    ({"task", "protocol", "metrics", "command"}, _result),
    ({"arm", "settings", "results"}, _record),
    ({"timm_arch", "projector", "training"}, _export),
    ({"architecture", "cassle_zoo"}, _model_config),
    ({"method", "augment", "optim", "run"}, _run_settings),
)
"""The keys by which a kind of file is recognised, and the function that upgrades it."""
