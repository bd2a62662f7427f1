"""Where the files of a model lie: with the package, in the Hub's cache, or in a user's folder.

One way for all names: bundled files, then the cache, then the Hub; and every file that has a
published hash is checked each time before it is read.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cassle_zoo.common.errors import (
    ChecksumError,
    ModelFolderError,
    UnknownNameError,
    WeightsUnavailableError,
)
from cassle_zoo.specs import ModelSpec, resolve_spec
from cassle_zoo.store.download import download, download_all, endpoint, is_offline
from cassle_zoo.store.folder import (
    CONFIG_FILE,
    FIX,
    FOLDER_FILES,
    LOCAL_PREFIX,
    MODEL_FILE,
    PROJECTOR_FILE,
    bundled_folder,
    file_sha256,
    how_to_get,
    local_folder,
    read_config,
    verify_files,
)

HUB_PREFIX = "hf-hub:"


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """Files on the Hub that have no published hash.

    Attributes:
        repo: `org/name`.
        revision: Branch, tag or commit; `None` for `main`.
        model: Full name that the model there must have; `None` for any.
    """

    repo: str
    revision: str | None
    model: str | None = None


def hub_source(name: str) -> HubSource | None:
    """Return what `hf-hub:ORG/NAME`, with or without `@REVISION`, or `NAME@REVISION` means.

    Args:
        name: Name of a model.

    Returns:
        The place on the Hub; `None` for other names, and for the revision that the registry pins,
        whose files have published hashes.

    Raises:
        ModelFolderError: If the name lacks a part.
        UnknownNameError: If `NAME` is no model of the registry.
        WeightsUnavailableError: If that model has no Hub repository.
    """
    on_hub = name.startswith(HUB_PREFIX)
    if name.startswith(LOCAL_PREFIX) or not (on_hub or "@" in name):
        return None
    base, at, revision = name.removeprefix(HUB_PREFIX).partition("@")
    if not base or (at and not revision) or (on_hub and "/" not in base):
        raise ModelFolderError(
            f"{name!r} is incomplete; write 'hf-hub:ORG/NAME', 'hf-hub:ORG/NAME@REVISION' or "
            "'NAME@REVISION'."
        )
    if on_hub:
        return HubSource(repo=base, revision=revision or None)
    spec = pinned_spec(name)
    if spec.hub_repo is None:
        raise WeightsUnavailableError(
            f"{spec.full_name!r} has no Hub repository, so it has no revision {revision!r}; leave "
            f"out '@{revision}', or name a repository with 'hf-hub:ORG/NAME@{revision}'."
        )
    if revision == spec.hub_revision:
        return None
    return HubSource(repo=spec.hub_repo, revision=revision, model=spec.full_name)


def pinned_spec(name: str) -> ModelSpec:
    """Return the registry's entry of a name for which :func:`hub_source` returns `None`.

    Raises:
        UnknownNameError: If there is no such model or tag.
    """
    base = name.partition("@")[0]
    if "/" in base:
        raise UnknownNameError(
            f"{name!r} is no model of the registry. Write '{HUB_PREFIX}{name}' for a repository on "
            f"the Hub, or '{LOCAL_PREFIX}{name}' for a folder."
        )
    return resolve_spec(base)


def unpinned_folder(
    name: str, files: Iterable[str], *, cache_dir: str | Path | None = None, force: bool = False
) -> Path | None:
    """Return the folder of a model that has no published hashes.

    Args:
        name: `local-dir:DIR`, `hf-hub:ORG/NAME[@REVISION]`, or any other name.
        files: Names of the files that will be read; on the Hub config.json is checked first.
        cache_dir: The Hub client's cache.
        force: Whether to download again.

    Returns:
        The folder; `None` if the name means files that the registry pins, see
        :func:`verified_folder`.

    Raises:
        ModelFolderError: If a file is missing, or the folder is not a model folder of cassle_zoo.
        ChecksumError: If a cached file of weights is not what the Hub holds.
        WeightsUnavailableError: If the Hub has no such repository, or cannot be reached.
    """
    folder = local_folder(name)
    if folder is not None:
        return folder
    source = hub_source(name)
    if source is None:
        return None
    folder = download(source.repo, source.revision, [CONFIG_FILE], cache_dir=cache_dir, force=force)
    try:
        found = read_config(folder)["cassle_zoo"]["name"]
    except ModelFolderError as error:
        reason, fix, _ = str(error).partition(FIX)
        if not fix:
            raise
        raise ModelFolderError(
            f"{reason}This is the file of {source.repo!r} in the cache. {_repair(name, cache_dir)}"
        ) from error
    if source.model not in (None, found):
        raise ModelFolderError(
            f"{source.repo!r} at {folder.name} holds {found!r} and not {source.model!r}; load it "
            f"with 'hf-hub:{source.repo}@{folder.name}' if that is what you want."
        )
    others = [file for file in files if file != CONFIG_FILE]
    if others:
        # From the commit that config.json is of, even if somebody pushes meanwhile.
        download(source.repo, folder.name, others, cache_dir=cache_dir, force=force)
    for file in others:
        _check_blob(folder / file, _repair(name, cache_dir))
    return folder


def _check_blob(path: Path, repair: str) -> None:
    """Check a large file in the cache against its hash on the Hub, which is its blob's name."""
    blob = path.readlink().name if path.is_symlink() else ""
    if re.fullmatch("[0-9a-f]{64}", blob) and file_sha256(path) != blob:
        raise ChecksumError(f"{path} is not the file on the Hub, whose sha256 is {blob}. {repair}")


def verified_folder(
    spec: ModelSpec,
    files: Iterable[str],
    *,
    cache_dir: str | Path | None = None,
    force: bool = False,
) -> Path:
    """Return the folder of a released model after checking the files about to be read.

    The folder is the bundled one; without it, the pinned revision in the cache, into which missing
    files are downloaded.

    Args:
        spec: The model.
        files: Names of those files.
        cache_dir: The Hub client's cache.
        force: Whether to download again what is not bundled.

    Raises:
        WeightsUnavailableError: If nobody has published weights of this model, or the Hub cannot
            be reached and the cache lacks a file.
        ModelFolderError: If a file is missing, or the model has no such file.
        ChecksumError: If a file is not the published one.
    """
    if spec.sha256 is None:
        raise WeightsUnavailableError(how_to_get(spec))
    wanted = list(files)
    absent = [file for file in wanted if file not in spec.sha256]
    if absent:
        raise ModelFolderError(
            f"{spec.full_name!r} was published without {', '.join(absent)}; it has: "
            f"{', '.join(spec.sha256)}."
        )
    hashes = {file: spec.sha256[file] for file in wanted}
    folder = bundled_folder(spec)
    if folder.is_dir() or spec.hub_repo is None:
        verify_files(folder, hashes)
        return folder
    folder = download(spec.hub_repo, spec.hub_revision, wanted, cache_dir=cache_dir, force=force)
    verify_files(folder, hashes, _repair(spec.full_name, cache_dir))
    return folder


def is_cached_file(spec: ModelSpec, path: str | Path) -> bool:
    """Whether a path is where the Hub's client caches a file of the pinned revision."""
    folder = "models--" + (spec.hub_repo or "").replace("/", "--")
    return Path(path).parts[-4:-1] == (folder, "snapshots", spec.hub_revision)


def _repair(name: str, cache_dir: str | Path | None) -> str:
    cache = f"HF_HUB_CACHE={shlex.quote(str(cache_dir))} " if cache_dir else ""
    first = "Unset HF_HUB_OFFLINE, and download" if is_offline() else "Download"
    return (
        f"{first} it again with `{cache}cassle-zoo hub pull {name} --force`; if that does not "
        f"help, {endpoint()} serves a damaged file."
    )


def fetch(name: str, *, cache_dir: str | Path | None = None, force: bool = False) -> Path:
    """Make sure that all files of a model lie on this machine, for use without a network.

    Args:
        name: A name of the registry, `NAME@REVISION`, `hf-hub:ORG/NAME[@REVISION]`, or
            `local-dir:DIR`.
        cache_dir: The Hub client's cache; give the same when loading.
        force: Whether to download again what is in the cache, for example because it is damaged.

    Returns:
        The folder, with its files checked.

    Raises:
        UnknownNameError: If there is no such model or tag.
        WeightsUnavailableError: If there are no published weights, or the Hub cannot be reached.
        ModelFolderError: If a file is missing or invalid.
        ChecksumError: If a file is not the published one.
    """
    folder = unpinned_folder(name, [CONFIG_FILE], cache_dir=cache_dir, force=force)
    if folder is None:
        spec = pinned_spec(name)
        return verified_folder(spec, spec.sha256 or (), cache_dir=cache_dir, force=force)
    described = read_config(folder)["cassle_zoo"]["projector"] is not None
    needed = [MODEL_FILE, PROJECTOR_FILE] if described else [MODEL_FILE]
    if source := hub_source(name):
        # By known names only: what else a repository lists is never asked for.
        download_all(source.repo, folder.name, FOLDER_FILES, cache_dir=cache_dir, force=force)
        download(source.repo, folder.name, needed, cache_dir=cache_dir)  # an error if one lacks
    for file in needed:
        if not (folder / file).is_file():
            raise ModelFolderError(f"{folder} lacks {file}, so {name!r} is incomplete.")
    for path in folder.glob("*.safetensors"):
        _check_blob(path, _repair(name, cache_dir))
    return folder
