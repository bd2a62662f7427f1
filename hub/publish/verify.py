"""`verify`: checks of a model folder, or of a repository on the Hub."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from huggingface_hub import ModelCard
from torch import nn

from cassle_zoo.common.errors import CassleZooError, ChecksumError, HubError, ModelFolderError
from cassle_zoo.features.whitening import OWN, Whitening, origin_of
from cassle_zoo.hub.cards.card import CARD_REPO, render_card, whitening_of
from cassle_zoo.hub.cards.check import card_problems, forged_results, holds_token
from cassle_zoo.hub.provenance import problems
from cassle_zoo.hub.publish.pull import model_name
from cassle_zoo.hub.publish.remote import inspect_repository
from cassle_zoo.hub.reference import HASHED_FILES, TOLERANCE, recorded_hashes, reference_errors
from cassle_zoo.projector import ConditionedProjector
from cassle_zoo.records import read_results
from cassle_zoo.specs import MODEL_SPECS, ModelSpec
from cassle_zoo.store.folder import (
    ALLOWED_FILES,
    CARD_FILE,
    CONFIG_FILE,
    MODEL_FILE,
    OPTIONAL_FILES,
    PROJECTOR_FILE,
    REFERENCE_FILE,
    WHITENING_FILE,
    bundled_folder,
    require_file,
    verify_files,
)
from cassle_zoo.store.model_files import (
    LOCAL_PREFIX,
    ModelFiles,
    local_folder,
    registered,
    resolve,
)
from cassle_zoo.zoo.create import load_backbone, load_projector
from cassle_zoo.zoo.registry import pool_name
from cassle_zoo.zoo.width import feature_width


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
    """Sort the content of a model folder into its own files and others.

    Args:
        folder: The model folder.

    Returns:
        Names of the model folder's files, and of everything else, which is never uploaded.

    Raises:
        ModelFolderError: If the folder does not exist, or one of its own files is not a file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelFolderError(
            f"{folder} is not a folder; `cassle-zoo hub export RUN -o DIR` and `hub convert` write "
            "model folders."
        )
    for name in ALLOWED_FILES:
        if (folder / name).exists() and not (folder / name).is_file():
            raise ModelFolderError(f"{folder / name} is not a file.")
    found = sorted(path.name for path in folder.iterdir())
    own = tuple(name for name in ALLOWED_FILES if (folder / name).is_file())
    return own, tuple(name for name in found if name not in own)


def verify_folder(folder: str | Path) -> list[Check]:
    """Check a model folder.

    Hashes are those in the header of `reference.safetensors`, and those of the registry if the
    backbone's weights are the published ones. Weights are loaded completely or not at all, and
    must give the stored features and projections.

    Args:
        folder: The model folder.

    Returns:
        All checks, in the same order for every folder; `whitening` only if there is one.
    """
    folder = Path(folder)
    return [_check("files", partial(_files, folder)), *content_checks(folder)]


def content_checks(folder: Path, pinned: ModelSpec | None = None) -> list[Check]:
    """Check the content of a model folder's files.

    Args:
        folder: The model folder, or the one of a commit in the Hub's cache.
        pinned: The registry's entry, if the files must be the published ones.
    """
    opened, has_whitening = _Folder(folder), (folder / WHITENING_FILE).is_file()
    return [
        _check("config", partial(_config, opened)),
        _check("hashes", partial(_hashes, opened, pinned)),
        _check("backbone", partial(_backbone, opened)),
        _check("projector", partial(_projector, opened)),
        *([_check("whitening", partial(_whitening, opened))] if has_whitening else []),
        _check("reference", partial(_reference, opened)),
        _check("card", partial(_card, opened)),
    ]


class _Folder:
    """A model folder, each part of which is loaded once, by the first check that needs it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def files(self) -> ModelFiles:
        return resolve(f"{LOCAL_PREFIX}{self.path}", [])

    @cached_property
    def backbone(self) -> nn.Module:
        return load_backbone(self.files)

    @cached_property
    def projector(self) -> ConditionedProjector | None:
        return load_projector(self.files) if self.files.has_projector else None


def _check(name: str, find: Callable[[], str]) -> Check:
    """Run one check; if it raises, it fails and later checks still run."""
    try:
        return Check(name=name, passed=True, detail=find())
    except CassleZooError as error:
        detail = str(error)
    except Exception as error:  # timm and torch may raise anything for a malformed folder
        detail = f"{type(error).__name__}: {error}"
    return Check(name=name, passed=False, detail=" ".join(detail.split()))


def _files(folder: Path) -> str:
    own, others = folder_content(folder)
    missing = [name for name in ALLOWED_FILES if name not in own and name not in OPTIONAL_FILES]
    if missing:
        raise ModelFolderError(f"{folder} lacks {', '.join(missing)}.")
    left_out = f"; not part of the model: {', '.join(map(repr, others))}" if others else ""
    return f"{', '.join(own)}{left_out}"


def _config(folder: _Folder) -> str:
    config = folder.files.config
    if holds_token((folder.path / CONFIG_FILE).read_text(encoding="utf-8")):
        raise ModelFolderError(f"{folder.path / CONFIG_FILE} holds a Hub token; revoke it.")
    if wrong := problems(config):
        raise ModelFolderError(f"{'; '.join(wrong)}.")
    return f"{config['cassle_zoo']['name']}, {config['architecture']}"


def _hashes(folder: _Folder, pinned: ModelSpec | None) -> str:
    path = folder.path
    recorded = recorded_hashes(path)
    again = f"`python -m cassle_zoo.hub.reference {path}`"
    verify_files(path, recorded, f"Get it again, or if the change is yours, run {again}.")
    unrecorded = [name for name in HASHED_FILES if (path / name).is_file() and name not in recorded]
    if unrecorded:
        raise ModelFolderError(
            f"{REFERENCE_FILE} has no hash of {', '.join(unrecorded)}; write it again with {again}."
        )
    released = pinned or MODEL_SPECS.get(folder.files.spec.full_name)
    published = {} if released is None else dict(released.sha256 or {})
    if pinned is None and recorded.get(MODEL_FILE) != published.get(MODEL_FILE):
        return f"as recorded in {REFERENCE_FILE}; not a model of the registry"
    verify_files(path, published)
    return f"as recorded in {REFERENCE_FILE} and in the registry"


def _backbone(folder: _Folder) -> str:
    model = folder.backbone
    config = folder.files.config
    size, args = tuple(config["pretrained_cfg"]["input_size"]), config.get("model_args", {})
    width = feature_width(config["architecture"], args, size)
    if config["num_features"] != width:
        raise ModelFolderError(
            f"{CONFIG_FILE} says num_features {config['num_features']}, but the model has {width}."
        )
    stated, pool = config.get("global_pool", ""), pool_name(model)
    if stated != pool:
        raise ModelFolderError(
            f"{CONFIG_FILE} says global_pool {stated!r}, but the model's is {pool!r}."
        )
    return f"all {len(model.state_dict())} tensors loaded"


def _projector(folder: _Folder) -> str:
    path = folder.path / PROJECTOR_FILE
    if folder.projector is not None:
        return f"all {len(folder.projector.state_dict())} tensors loaded"
    if path.exists():
        raise ModelFolderError(f"{path} is not described in {CONFIG_FILE}.")
    return "none"


def _whitening(folder: _Folder) -> str:
    found = Whitening.load(folder.path / WHITENING_FILE)
    width = folder.files.config["num_features"]
    if len(found.mean) != width:
        raise ModelFolderError(
            f"{WHITENING_FILE} is for features of width {len(found.mean)}, the model's are {width}."
        )
    if found.origin:
        found.check_origin(origin_of(folder.backbone), OWN)
    return f"{found.components} components of {width}, fitted to {found.images:,} images"


def _reference(folder: _Folder) -> str:
    errors = reference_errors(folder.files, folder.backbone, folder.projector)
    found = ", ".join(f"{name} differ by {error:.1e}" for name, error in errors.items())
    if not all(error <= TOLERANCE for error in errors.values()):  # also if one is NaN
        raise ModelFolderError(f"{found} of the largest value; {TOLERANCE:.0e} is allowed.")
    return f"{found} of the largest value (allowed: {TOLERANCE:.0e})"


def _card(folder: _Folder) -> str:
    path = folder.path / CARD_FILE
    require_file(path)
    content = path.read_bytes()
    problems = card_problems(content)
    if problems:
        raise ModelFolderError("; ".join(problems))
    card, generated = ModelCard(content.decode("utf-8-sig")), _generated_card(folder.files)
    if wrong := forged_results(card, generated):
        raise ModelFolderError("; ".join(wrong))
    same = re.sub(r"hf-hub:[\w.-]+/[\w.-]+", CARD_REPO, str(card)) == str(generated)
    bundled = [bundled_folder(spec).resolve() for spec in MODEL_SPECS.values()]
    if not same and folder.path.resolve() in bundled:
        raise ModelFolderError(f"{path} is not the card of this version; reinstall cassle-zoo.")
    return f"{CARD_FILE} is valid, {'as generated' if same else 'not the generated text'}"


def _generated_card(files: ModelFiles) -> ModelCard:
    """Write a folder's card anew; with the recorded results, if there are any of its weights."""
    weights = files.sha256(MODEL_FILE)
    shown = [r for r in read_results() if r.is_baseline or r.model.sha256 == weights]
    return render_card(files.config, whitening=whitening_of(files.folder), results=shown)


def verify(name: str, *, revision: str | None = None) -> list[Check]:
    """Check a model folder, a repository on the Hub, or a model of the registry.

    The files of a repository are compared with the hashes that the Hub states; those of a model of
    the registry with the published hashes.

    Args:
        name: A name of `create_model`, a repository `ORG/NAME`, or a folder.
        revision: Branch, tag or commit of the repository.

    Returns:
        All checks; only the first if the files are not those of a model.

    Raises:
        ConfigError: If a folder is given with a revision.
        UnknownNameError: If there is no such model or tag.
        WeightsUnavailableError: If there are no published weights, or the Hub cannot be reached.
        ModelFolderError: If there is no such folder, or the name is incomplete.
    """
    name = model_name(name, revision)
    if name.startswith(LOCAL_PREFIX):
        folder = local_folder(name)
        folder_content(folder)
        return verify_folder(folder)
    registered(name)  # raises if the name is incomplete: nothing to check then
    try:
        files = resolve(name)
    except (ChecksumError, ModelFolderError) as error:
        return [Check(name="files", passed=False, detail=" ".join(str(error).split()))]
    if files.verified:
        found = Check(name="files", passed=True, detail=str(files.folder))
        return [found, *content_checks(files.folder, files.spec)]
    place = (files.spec.hub_repo, files.spec.hub_revision)
    pinned = next((s for s in MODEL_SPECS.values() if (s.hub_repo, s.hub_revision) == place), None)
    on_hub = _check("files", partial(_as_on_the_hub, files))
    return [on_hub, *content_checks(files.folder, pinned)]


def _as_on_the_hub(files: ModelFiles) -> str:
    folder, repo, commit = files.folder, str(files.spec.hub_repo), str(files.commit)
    repository = inspect_repository(repo, commit)
    if repository is None:
        raise HubError(f"{repo!r} is no longer on the Hub, or your token may not see it.")
    wrong = [name for name in repository.files if not (folder / name).is_file()] + [
        name
        for name in ALLOWED_FILES
        if (folder / name).is_file() and not repository.holds(name, folder / name)
    ]
    if wrong:
        raise ChecksumError(f"{', '.join(wrong)} in {folder} differ from commit {commit}.")
    return f"as in commit {commit} of {repo}: {', '.join(repository.files)}"
