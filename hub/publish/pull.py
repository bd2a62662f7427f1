"""`pull`: a model of the Hub, in the cache or as a folder; and the names users may write."""

import shutil
from pathlib import Path

from cassle_zoo.common.errors import ConfigError, ModelFolderError
from cassle_zoo.common.files import expand_home, named_path
from cassle_zoo.store.folder import ALLOWED_FILES, check_target, new_folder
from cassle_zoo.store.model_files import HUB_PREFIX, LOCAL_PREFIX, resolve


def model_name(text: str, revision: str | None = None) -> str:
    """Return the name of `create_model` for the text that a user wrote.

    Args:
        text: A name of `create_model`, the path of a model folder, or a repository `ORG/NAME`. A
            folder that exists comes before a repository of that name.
        revision: Branch, tag or commit; only for names that can have one.

    Raises:
        ConfigError: If a revision is given twice, or for a folder.
    """
    base = text.partition("@")[0]
    if text.startswith((LOCAL_PREFIX, HUB_PREFIX)):
        name = text
    elif expand_home(text).is_dir():
        name = f"{LOCAL_PREFIX}{text}"
    elif base.count("/") == 1:
        name = f"{HUB_PREFIX}{text}"
    else:
        name = text
    if revision is None:
        return name
    if name.startswith(LOCAL_PREFIX):
        raise ConfigError(f"{text} is a folder, which has no revision {revision!r}.")
    if "@" in name:
        raise ConfigError(f"{text!r} names a revision already; leave out {revision!r}.")
    return f"{name}@{revision}"


def pull(
    name: str,
    output: str | Path | None = None,
    *,
    force: bool = False,
) -> Path:
    """Get all files of a model, checked.

    Args:
        name: A name of `create_model`, a repository `ORG/NAME`, or a folder.
        output: Folder to copy the files to, as real files; the cache stays as it is.
        force: Whether to download again, and to replace a model folder at `output`.

    Returns:
        `output`, or the folder in the cache or in the package.

    Raises:
        UnknownNameError: If there is no such model or tag.
        WeightsUnavailableError: If there are no published weights, or the Hub cannot be reached.
        ChecksumError: If a file is not the published one.
        ModelFolderError: If a file is missing or invalid, or `output` holds other files.
    """
    target = None if output is None else named_path(output, "output").resolve()
    if target is not None:
        check_target(target, overwrite=force)
    source = resolve(model_name(name), force=force).folder
    if target is None:
        return source
    if source.resolve() == target:
        raise ModelFolderError(f"{target} is the folder itself; give another one.")
    with new_folder(target, overwrite=force) as staged:
        # By known names only: no other name that a repository lists is used as a path.
        for file in ALLOWED_FILES:
            if (source / file).is_file():
                shutil.copyfile(source / file, staged / file)
    return target
