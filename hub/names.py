"""What a user may write where a model is meant, on the command line."""

from pathlib import Path

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.store.cache import HUB_PREFIX
from cassle_zoo.store.folder import LOCAL_PREFIX


def model_name(text: str, revision: str | None = None) -> str:
    """Return the name by which `create_model` knows what a user wrote.

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
    elif Path(text).expanduser().is_dir():
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
