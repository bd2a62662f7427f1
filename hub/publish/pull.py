"""Gets a model from the Hub, into the cache or as a folder."""

import os
import shutil
import uuid
from pathlib import Path

from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.hub.names import model_name
from cassle_zoo.store.cache import fetch, hub_source, pinned_spec
from cassle_zoo.store.download import download_all
from cassle_zoo.store.folder import CARD_FILE, FOLDER_FILES, bundled_folder, local_folder


def pull(
    name: str,
    output: str | Path | None = None,
    *,
    cache_dir: str | Path | None = None,
    force: bool = False,
) -> Path:
    """Get all files of a model, checked.

    Args:
        name: A name of `create_model`, a repository `ORG/NAME`, or a folder.
        output: Folder to copy the files to, as real files; the cache stays as it is.
        cache_dir: The Hub client's cache.
        force: Whether to download again, and to replace a model folder at `output`.

    Returns:
        `output`, or the folder in the cache or in the package.

    Raises:
        UnknownNameError: If there is no such model or tag.
        WeightsUnavailableError: If there are no published weights, or the Hub cannot be reached.
        ChecksumError: If a file is not the published one.
        ModelFolderError: If a file is missing or invalid, or `output` holds other files.
    """
    target = None if output is None else Path(output).resolve()
    if target is not None:
        _check_target(target, force)
    source = fetch_with_card(model_name(name), cache_dir=cache_dir, force=force)
    if target is None:
        return source
    if source.resolve() == target:
        raise ModelFolderError(f"{target} is the folder itself; give another one.")
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        staged.mkdir()
        # By known names only: what else a repository lists is never used as a path.
        for file in FOLDER_FILES:
            if (source / file).is_file():
                shutil.copyfile(source / file, staged / file)
        if target.exists():
            shutil.rmtree(target)
        os.replace(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return target


def fetch_with_card(name: str, *, cache_dir: str | Path | None = None, force: bool = False) -> Path:
    """Do what :func:`cassle_zoo.store.cache.fetch` does, and get the model card, too.

    The registry pins no cards, since people edit them.
    """
    folder = fetch(name, cache_dir=cache_dir, force=force)
    if local_folder(name) is None and hub_source(name) is None:
        spec = pinned_spec(name)
        if spec.hub_repo and spec.hub_revision and folder != bundled_folder(spec):
            download_all(
                spec.hub_repo, spec.hub_revision, [CARD_FILE], cache_dir=cache_dir, force=force
            )
    return folder


def _check_target(target: Path, force: bool) -> None:
    """Check that nothing is lost by writing a model folder there."""
    if not target.exists():
        return
    if not target.is_dir():
        raise ModelFolderError(f"{target} is a file; give a folder.")
    found = {path.name for path in target.iterdir()}
    if found and not force:
        raise ModelFolderError(f"{target} is not empty; give another folder, or --force.")
    foreign = sorted(found - set(FOLDER_FILES))
    if foreign:
        raise ModelFolderError(
            f"{target} is not replaced: it holds {', '.join(foreign[:5])}, which no model folder "
            "has; give another folder."
        )
