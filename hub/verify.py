"""Checks a model folder, or a repository on the Hub, and collects all that is wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cassle_zoo.artifact import load_projector
from cassle_zoo.errors import ArtifactError, CassleZooError
from cassle_zoo.factory import create_model
from cassle_zoo.hub.card_check import card_problems, holds_token
from cassle_zoo.hub.reference import TOLERANCE, recorded_hashes, reference_errors
from cassle_zoo.model_folder import (
    CARD_FILE,
    CONFIG_FILE,
    FOLDER_FILES,
    LOCAL_PREFIX,
    MODEL_FILE,
    PROJECTOR_FILE,
    REFERENCE_FILE,
    read_config,
    verify_files,
)
from cassle_zoo.specs import MODEL_SPECS, ModelSpec


@dataclass(frozen=True, kw_only=True)
class Check:
    """Outcome of one check.

    Attributes:
        name: What was checked, one word.
        passed: Whether it is as it should be.
        detail: What was found, one line.
    """

    name: str
    passed: bool
    detail: str


def folder_content(folder: str | Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sort what lies in a model folder into its own files and others.

    Args:
        folder: The model folder.

    Returns:
        Names of the model folder's files, and of everything else, which is never uploaded.

    Raises:
        ArtifactError: If the folder does not exist, or one of its own files is no file, or a
            symbolic link that leads out of the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder.")
    inside = folder.resolve()
    for name in FOLDER_FILES:
        path = folder / name
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise ArtifactError(
                f"{path} is a symbolic link that leads out of the folder, to {path.resolve()}; it "
                "is not followed. Copy the folder with `cassle-zoo hub pull NAME -o DIR`."
            )
        if path.exists() and not path.is_file():
            raise ArtifactError(f"{path} is not a file.")
    found = sorted(path.name for path in folder.iterdir())
    own = tuple(name for name in FOLDER_FILES if (folder / name).is_file())
    return own, tuple(name for name in found if name not in own)


def verify_folder(folder: str | Path) -> list[Check]:
    """Check a model folder.

    Hashes are those in the header of `reference.safetensors`, and those of the registry if the
    backbone's weights are the published ones. Weights are loaded completely or not at all, and
    must give the stored features and projections.

    Args:
        folder: The model folder.

    Returns:
        All checks, in the same order for every folder.
    """
    folder = Path(folder)
    return [Check(name="files", **_outcome(lambda: _files(folder))), *content_checks(folder)]


def content_checks(folder: Path, pinned: ModelSpec | None = None) -> list[Check]:
    """Check what the files of a model folder hold.

    Args:
        folder: The model folder, or the one of a commit in the Hub's cache.
        pinned: The registry's entry, if the files must be the published ones.
    """
    checks: Mapping[str, Callable[[Path], str]] = {
        "config": _config,
        "hashes": lambda folder: _hashes(folder, pinned),
        "backbone": _backbone,
        "projector": _projector,
        "reference": _reference,
        "card": _card,
    }
    return [
        Check(name=name, **_outcome(lambda check=check: check(folder)))  # type: ignore[misc]
        for name, check in checks.items()
    ]


def _outcome(check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"passed": True, "detail": check()}
    except (CassleZooError, OSError) as error:
        return {"passed": False, "detail": " ".join(str(error).split())}


def _files(folder: Path) -> str:
    own, others = folder_content(folder)
    missing = [name for name in FOLDER_FILES if name not in own and name != PROJECTOR_FILE]
    if missing:
        raise ArtifactError(f"{folder} lacks {', '.join(missing)}.")
    left_out = f"; not part of the model: {', '.join(map(repr, others))}" if others else ""
    return f"{', '.join(own)}{left_out}"


def _config(folder: Path) -> str:
    config = read_config(folder)
    if holds_token((folder / CONFIG_FILE).read_text(encoding="utf-8")):
        raise ArtifactError(f"{folder / CONFIG_FILE} holds a token of the Hub; revoke it.")
    return f"{config['cassle_zoo']['name']}, {config['architecture']}"


def _hashes(folder: Path, pinned: ModelSpec | None) -> str:
    recorded = recorded_hashes(folder)
    verify_files(folder, recorded)
    unrecorded = [
        name
        for name in (MODEL_FILE, PROJECTOR_FILE, CONFIG_FILE)
        if (folder / name).is_file() and name not in recorded
    ]
    if unrecorded:
        raise ArtifactError(
            f"{REFERENCE_FILE} has no hash of {', '.join(unrecorded)}; write it again with "
            f"`python -m cassle_zoo.hub.reference {folder}`."
        )
    released = pinned or MODEL_SPECS.get(read_config(folder)["cassle_zoo"]["name"])
    published = {} if released is None else dict(released.sha256 or {})
    same = recorded.get(MODEL_FILE) == published.get(MODEL_FILE)
    if pinned is None and not same:
        return f"as recorded in {REFERENCE_FILE}; not a model of the registry"
    verify_files(folder, published)
    return f"as recorded in {REFERENCE_FILE} and in the registry"


def _backbone(folder: Path) -> str:
    model = create_model(f"{LOCAL_PREFIX}{folder}", pretrained=True)
    return f"all {len(model.state_dict())} tensors loaded"


def _projector(folder: Path) -> str:
    if read_config(folder)["cassle_zoo"].get("projector") is None:
        if (folder / PROJECTOR_FILE).exists():
            raise ArtifactError(f"{folder / PROJECTOR_FILE} is not described in {CONFIG_FILE}.")
        return "none"
    return f"all {len(load_projector(folder).state_dict())} tensors loaded"


def _reference(folder: Path) -> str:
    errors = reference_errors(folder)
    found = ", ".join(f"{name} differ by {error:.1e}" for name, error in errors.items())
    if not all(error <= TOLERANCE for error in errors.values()):  # also if one is NaN
        raise ArtifactError(f"{found} of the largest value; {TOLERANCE:.0e} is allowed.")
    return f"{found} of the largest value (allowed: {TOLERANCE:.0e})"


def _card(folder: Path) -> str:
    path = folder / CARD_FILE
    if not path.is_file():
        raise ArtifactError(f"{path} is missing.")
    problems = card_problems(path.read_bytes())
    if problems:
        raise ArtifactError("; ".join(problems))
    return f"{CARD_FILE} is valid"
