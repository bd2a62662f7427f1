"""`resolve`: the files of a model, for every way of naming one.

Bundled files come first, then the Hub's cache, then the Hub. Every file that has a published hash
is checked against it before each use, and config.json is read once.
"""

import re
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cassle_zoo.common.errors import (
    ChecksumError,
    ModelFolderError,
    TimmFolderError,
    UnknownNameError,
    WeightsUnavailableError,
)
from cassle_zoo.common.files import expand_home, sha256
from cassle_zoo.common.hub_client import endpoint, is_offline
from cassle_zoo.records import CHECKPOINT_FILE
from cassle_zoo.specs import MODEL_SPECS, ModelSpec, resolve_spec
from cassle_zoo.store.download import download, download_all
from cassle_zoo.store.folder import (
    ALLOWED_FILES,
    CARD_FILE,
    CONFIG_FILE,
    FIX,
    FIX_PACKAGE,
    MODEL_FILE,
    PROJECTOR_FILE,
    REFERENCE_FILE,
    bundled_folder,
    check_hash,
    parse_config,
    require_file,
    verify_files,
)

HUB_PREFIX = "hf-hub:"
LOCAL_PREFIX = "local-dir:"


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """The files of a model on this machine.

    Attributes:
        folder: The model folder: in the package, in the Hub's cache, or a user's own.
        config: The content of its config.json, checked.
        spec: The registry's entry; for files that the registry does not pin, what config.json
            says, with the repository and commit, and without hashes.
        commit: Commit of the Hub repository that the files come from, 40 hexadecimal digits;
            `None` if they are not from the Hub.
        verified: Whether the files have the hashes that the registry publishes.
        hashes: SHA-256 by name of the files that were hashed to check them; config.json always.
    """

    folder: Path
    config: Mapping[str, Any]
    spec: ModelSpec
    commit: str | None
    verified: bool
    hashes: Mapping[str, str]

    @property
    def has_projector(self) -> bool:
        """Whether config.json describes a projector."""
        return self.config["cassle_zoo"]["projector"] is not None

    def sha256(self, file: str) -> str:
        """Return the SHA-256 of a file, which is read only if it was not hashed already."""
        return self.hashes.get(file) or sha256(self.folder / file)


def registered(name: str) -> ModelSpec | None:
    """Return the registry's entry for a name, if the registry pins its files; reads no files.

    Args:
        name: As for :func:`resolve`.

    Returns:
        The entry; `None` for a folder, a repository, or a revision other than the pinned one.

    Raises:
        ModelFolderError: If the name is incomplete.
        UnknownNameError: If there is no such model or tag.
        WeightsUnavailableError: If a revision is given for a model without a Hub repository.
    """
    place = _place(name)
    return place if isinstance(place, ModelSpec) else None


def resolve(
    name: str,
    files: Iterable[str] | None = None,
    *,
    cache_dir: str | Path | None = None,
    force: bool = False,
) -> ModelFiles:
    """Find the files of a model, download what is missing, and check what will be read.

    Args:
        name: A name of the registry with or without tag, `NAME@REVISION`,
            `hf-hub:ORG/NAME[@REVISION]`, or `local-dir:DIR`.
        files: Names of the files that will be read, besides config.json. By default all files of
            the model, for use without a network.
        cache_dir: The Hub client's cache; by default the one in `HF_HOME`.
        force: Whether to download cached files again, for example because they are damaged.

    Raises:
        UnknownNameError: If there is no such model or tag.
        WeightsUnavailableError: If there are no published weights, the Hub has no such repository
            or revision, or it cannot be reached and the cache lacks a file.
        ModelFolderError: If the name is incomplete, a file is missing, or config.json is invalid.
        ChecksumError: If a file is not the published one, or not the one on the Hub.
    """
    place = _place(name)
    if isinstance(place, ModelSpec):
        return _pinned(place, files, cache_dir, force)
    if isinstance(place, _Repository):
        return _unpinned_on_hub(name, place, files, cache_dir, force)
    return _local(place, files)


def resolve_optional(name: str, file: str) -> Path | None:
    """Return a file that a model folder may or may not have, checked; `None` if it has none.

    Args:
        name: As for :func:`resolve`; also a model of timm, which has none.
        file: Name of the file.

    Raises:
        ChecksumError: If it is not the published one, or not the one on the Hub.
        WeightsUnavailableError: If it is not in the cache, and the Hub cannot be asked for it.
    """
    try:
        spec = registered(name)
        if spec is not None:
            if file not in (spec.sha256 or {}):
                return None
            return resolve(name, [file]).folder / file
        found = resolve(name, [])
    except (TimmFolderError, UnknownNameError):
        return None
    path = found.folder / file
    if found.commit is not None and found.spec.hub_repo is not None and not path.is_file():
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        # The client remembers what a commit has not.
        cached = try_to_load_from_cache(found.spec.hub_repo, file, revision=found.commit)
        if cached is _CACHED_NO_EXIST:
            return None
        try:
            download(found.spec.hub_repo, found.commit, [file])
        except ModelFolderError:
            return None  # the repository has none
        except WeightsUnavailableError:
            # If the reference is there, all files were downloaded, as `hub pull` does.
            if not (found.folder / REFERENCE_FILE).is_file():
                raise
    if not path.is_file():
        return None
    _check_blobs([path], _repair(name))
    return path


@dataclass(frozen=True, kw_only=True)
class _Repository:
    """Files on the Hub without a published hash; `None` means `main`, and any model."""

    repo: str
    revision: str | None
    model: str | None = None


def local_folder(name: str) -> Path:
    """Return the folder of `local-dir:DIR`, which may be missing.

    Raises:
        ModelFolderError: If the name is incomplete.
    """
    folder = name.removeprefix(LOCAL_PREFIX)
    if not folder:
        raise ModelFolderError(f"{name!r} names no folder; write 'local-dir:PATH'.")
    return expand_home(folder)


def _place(name: str) -> ModelSpec | _Repository | Path:
    if name.startswith(LOCAL_PREFIX):
        return local_folder(name)
    on_hub = name.startswith(HUB_PREFIX)
    base, at, revision = name.removeprefix(HUB_PREFIX).partition("@")
    if (on_hub or at) and (not base or (at and not revision) or (on_hub and "/" not in base)):
        raise ModelFolderError(
            f"{name!r} is incomplete; write 'hf-hub:ORG/NAME', 'hf-hub:ORG/NAME@REVISION' or "
            "'NAME@REVISION'."
        )
    if on_hub:
        return _Repository(repo=base, revision=revision or None)
    if "/" in base:
        raise UnknownNameError(
            _as_a_path(name)
            or f"{name!r} is not in the registry. Write '{HUB_PREFIX}{name}' for a repository on "
            f"the Hub, or '{LOCAL_PREFIX}{name}' for a folder."
        )
    try:
        spec = resolve_spec(base)
    except UnknownNameError as error:
        raise UnknownNameError(_as_a_path(name) or str(error)) from None
    if not at:
        return spec
    if spec.hub_repo is None:
        raise WeightsUnavailableError(
            f"{spec.full_name!r} has no Hub repository, hence no revision {revision!r}; leave "
            f"out '@{revision}', or name a repository with 'hf-hub:ORG/NAME@{revision}'."
        )
    if revision == spec.hub_revision:
        return spec
    return _Repository(repo=spec.hub_repo, revision=revision, model=spec.full_name)


def _as_a_path(name: str) -> str | None:
    """Say how to name what a path leads to; `None` if there is nothing."""
    path = expand_home(name)
    own = shlex.quote(name)
    if path.is_file():
        return (
            f"{name!r} is a file, not the name of a model. Make a model folder of its weights: "
            f"`cassle-zoo hub convert {own} --name NAME -o DIR`; then write '{LOCAL_PREFIX}DIR'."
        )
    if not path.is_dir():
        return None
    if not (path / CONFIG_FILE).is_file() or (path / CHECKPOINT_FILE).is_file():
        return (
            f"{name!r} is a folder, but no model folder. If it is a run, make one: `cassle-zoo hub "
            f"export {own} -o DIR`; then write '{LOCAL_PREFIX}DIR'."
        )
    return f"{name!r} is a folder; write '{LOCAL_PREFIX}{name}'."


def _pinned(
    spec: ModelSpec, files: Iterable[str] | None, cache_dir: str | Path | None, force: bool
) -> ModelFiles:
    if spec.sha256 is None:
        raise WeightsUnavailableError(_how_to_get(spec))
    wanted = list(dict.fromkeys((CONFIG_FILE, *(spec.sha256 if files is None else files))))
    absent = [file for file in wanted if file not in spec.sha256]
    if absent:
        raise ModelFolderError(
            f"{spec.full_name!r} was published without {', '.join(absent)}; it has: "
            f"{', '.join(spec.sha256)}."
        )
    folder, commit, fix = bundled_folder(spec), None, FIX_PACKAGE
    if not folder.is_dir() and spec.hub_repo is not None and spec.hub_revision is not None:
        commit, fix = spec.hub_revision, _repair(spec.full_name, cache_dir)
        # The registry pins no cards, since people edit them.
        named = [*wanted, CARD_FILE] if files is None else wanted
        folder = download(spec.hub_repo, commit, named, cache_dir=cache_dir, force=force)
    hashes, path = {file: spec.sha256[file].lower() for file in wanted}, folder / CONFIG_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFolderError(f"{path} cannot be read ({error.strerror}). {fix}") from error
    check_hash(path, sha256(content), hashes[CONFIG_FILE], fix)
    verify_files(folder, {k: v for k, v in hashes.items() if k != CONFIG_FILE}, fix)
    return ModelFiles(
        folder=folder,
        config=parse_config(content, path, fix),
        spec=spec,
        commit=commit,
        verified=True,
        hashes=hashes,
    )


def _local(folder: Path, files: Iterable[str] | None) -> ModelFiles:
    path = folder / CONFIG_FILE
    require_file(path)
    content = path.read_bytes()
    config = parse_config(content, path)
    wanted = _wanted(files, config, path)
    for file in wanted:
        require_file(folder / file)
    # It may be a folder of the Hub's cache.
    checked = [folder / file for file in wanted] if files is None else []
    return _unpinned(folder, config, {CONFIG_FILE: sha256(content), **_check_blobs(checked, FIX)})


def _unpinned_on_hub(
    name: str,
    place: _Repository,
    files: Iterable[str] | None,
    cache_dir: str | Path | None,
    force: bool,
) -> ModelFiles:
    fix = _repair(name, cache_dir)
    # config.json first: from a stranger's repository nothing else is downloaded before it is valid.
    folder = download(place.repo, place.revision, [CONFIG_FILE], cache_dir=cache_dir, force=force)
    commit, path = folder.name, folder / CONFIG_FILE
    content = path.read_bytes()
    config = parse_config(content, path, f"It is {place.repo!r}'s file in the cache. {fix}")
    found = config["cassle_zoo"]["name"]
    if place.model not in (None, found):
        raise ModelFolderError(
            f"{place.repo!r} at {commit} holds {found!r} and not {place.model!r}; load it "
            f"with 'hf-hub:{place.repo}@{commit}' if that is what you want."
        )
    wanted = _wanted(files, config, path)
    if files is None:
        # By known names only: other files of a repository are never requested.
        download_all(place.repo, commit, ALLOWED_FILES, cache_dir=cache_dir, force=force)
        force = False
        # Without a network the client returns what is cached; only whole folders have a card.
        with suppress(ModelFolderError):  # a repository may have none
            download(place.repo, commit, [CARD_FILE], cache_dir=cache_dir)
    if wanted:
        # From the same commit as config.json, even if somebody pushes meanwhile.
        download(place.repo, commit, wanted, cache_dir=cache_dir, force=force)
    checked = folder.glob("*.safetensors") if files is None else (folder / f for f in wanted)
    hashes = {CONFIG_FILE: sha256(content), **_check_blobs(checked, fix)}
    return _unpinned(folder, config, hashes, place.repo, commit)


def _wanted(files: Iterable[str] | None, config: Mapping[str, Any], path: Path) -> list[str]:
    described = config["cassle_zoo"]["projector"] is not None
    if files is None:
        return [MODEL_FILE, PROJECTOR_FILE] if described else [MODEL_FILE]
    wanted = [file for file in files if file != CONFIG_FILE]
    if PROJECTOR_FILE in wanted and not described:
        raise ModelFolderError(f"{path}: the model has no projector, only a backbone.")
    return wanted


def _check_blobs(paths: Iterable[Path], fix: str) -> dict[str, str]:
    """Check large files of the Hub's cache against their hashes there, which name the blobs."""
    hashes = {}
    for path in paths:
        blob = path.readlink().name if path.is_symlink() else ""
        if re.fullmatch("[0-9a-f]{64}", blob):
            hashes[path.name] = sha256(path)
            if hashes[path.name] != blob:
                raise ChecksumError(
                    f"{path} is not the file on the Hub, whose sha256 is {blob}. {fix}"
                )
    return hashes


def _unpinned(
    folder: Path,
    config: Mapping[str, Any],
    hashes: Mapping[str, str],
    repo: str | None = None,
    commit: str | None = None,
) -> ModelFiles:
    cfg, own = config["pretrained_cfg"], config["cassle_zoo"]
    base, _, tag = own["name"].partition(".")
    training, projector = own["training"], own["projector"]
    spec = ModelSpec(
        name=base,
        tag=tag,
        arch=config["architecture"],
        timm_arch=config["architecture"],
        model_args=config.get("model_args", {}),
        method=own["method"],
        conditioned=projector is not None and projector.get("conditioning") != "none",
        input_size=tuple(cfg["input_size"]),
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        interpolation=cfg.get("interpolation", "bicubic"),
        crop_pct=cfg.get("crop_pct", 1.0),
        num_features=config["num_features"],
        data=str(training.get("data", tag)),
        license=cfg.get("license", "unknown"),
        recipe=str(training.get("recipe", own["name"])),
        hub_repo=repo,
        hub_revision=commit,
    )
    return ModelFiles(
        folder=folder, config=config, spec=spec, commit=commit, verified=False, hashes=hashes
    )


def is_cached_file(spec: ModelSpec, path: str | Path) -> bool:
    """Whether a path is where the Hub's client caches a file of the pinned revision."""
    folder = "models--" + (spec.hub_repo or "").replace("/", "--")
    return Path(path).parts[-4:-1] == (folder, "snapshots", spec.hub_revision)


def _repair(name: str, cache_dir: str | Path | None = None) -> str:
    cache = f"HF_HUB_CACHE={shlex.quote(str(cache_dir))} " if cache_dir else ""
    first = "Unset HF_HUB_OFFLINE, and download" if is_offline() else "Download"
    return (
        f"{first} it again with `{cache}cassle-zoo hub pull {name} --force`; if that does not "
        f"help, {endpoint()} serves a damaged file."
    )


def _how_to_get(spec: ModelSpec) -> str:
    released = [name for name, other in MODEL_SPECS.items() if other.released]
    return (
        f"No weights of {spec.full_name!r} are published. Train them with `cassle-zoo train "
        f"{spec.full_name} --data PATH --out RUN` and package them with `cassle-zoo hub export RUN "
        f"-o DIR`, or convert the authors' file with `cassle-zoo hub convert FILE --name "
        f"{spec.full_name} -o DIR`; then load 'local-dir:DIR'. Or build the untrained model with "
        f"pretrained=False. "
        f"Published: {', '.join(released) or 'none'}."
    )
