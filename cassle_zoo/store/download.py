"""Downloads of the files of one Hub commit into the client's usual cache, and the client's errors.

huggingface_hub does the work, so its settings apply: `HF_HOME`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`,
`HF_TOKEN`, ... This module makes sure that all files are from one commit, and that errors say what
to do. No error contains a token.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cassle_zoo.common.errors import CassleZooError, HubError
from cassle_zoo.common.hub_client import (
    LOG_IN,
    client_errors,
    download_error,
    endpoint,
    is_unreachable,
    redacted,
    unreachable_error,
)
from cassle_zoo.version import __version__

_REASON_CHARACTERS = 500
_COMMIT = re.compile(r"[0-9a-f]{40}")


def download(
    repo: str,
    revision: str | None,
    files: Iterable[str],
    *,
    cache_dir: str | Path | None = None,
    force: bool = False,
) -> Path:
    """Download the files of a repository that are not cached, and return their folder.

    If `revision` is a full commit hash, cached files need no request. For a branch or tag, the
    client asks the Hub for the commit, and uses the cached one if the Hub cannot be reached.

    Args:
        repo: `org/name`.
        revision: Branch, tag or commit; `None` for `main`.
        files: Names of the files, at least one.
        cache_dir: The client's cache; by default the one in `HF_HOME`.
        force: Whether to download cached files again.

    Returns:
        The folder of the commit, named by its hash.

    Raises:
        UnknownNameError: If `repo` cannot be the name of a repository.
        WeightsUnavailableError: If there is no such repository or revision, the Hub cannot be
            reached and the cache lacks a file, or the download fails.
        ModelFolderError: If the repository lacks a file.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils._validators import validate_repo_id

    options = _options(cache_dir, force)
    wanted = revision or "main"
    folder = Path()
    for file in files:
        try:
            validate_repo_id(repo)
            cached = try_to_load_from_cache(repo, file, cache_dir, wanted)
            is_cached = isinstance(cached, str) and not force
            offline = not (is_cached and _COMMIT.fullmatch(wanted)) and is_unreachable()
            if offline and not is_cached:
                raise unreachable_error(f"{file} of {repo!r} at {wanted!r}", cache_dir)
            path = hf_hub_download(repo, file, revision=wanted, local_files_only=offline, **options)
        except client_errors() as error:
            # Without the client's traceback, which has what the server said, unredacted.
            raise download_error(error, repo, wanted, file, cache_dir) from None
        folder = Path(path).parent
        wanted = folder.name  # the commit, so that a push in between mixes no files
    return folder


def download_all(
    repo: str,
    commit: str,
    patterns: Sequence[str],
    *,
    cache_dir: str | Path | None = None,
    force: bool = False,
) -> Path:
    """Download all files of a commit whose names match one of the patterns; see `download`."""
    from huggingface_hub import snapshot_download

    try:
        path = snapshot_download(
            repo, revision=commit, allow_patterns=list(patterns), **_options(cache_dir, force)
        )
    except client_errors() as error:
        raise download_error(error, repo, commit, "a file", cache_dir) from None
    return Path(path)


def _options(cache_dir: str | Path | None, force: bool) -> dict[str, Any]:
    return {
        "cache_dir": cache_dir,
        "force_download": force,
        "library_name": "cassle_zoo",
        "library_version": __version__,
    }


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Turn the client's errors about a repository into ours, without the token a server may echo.

    Raises:
        HubError: For every error of the client inside the block.
    """
    # A failed upload is a RuntimeError, an answer that makes no sense a LookupError.
    expected: tuple[type[Exception], ...] = (*client_errors(), RuntimeError, LookupError)
    try:
        yield
    except CassleZooError:
        raise
    except expected as error:
        raise HubError(_refusal(error, repo)) from None


def _refusal(error: Exception, repo: str) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled

    where = f"{repo!r} at {endpoint()}"
    cause: BaseException = error
    while getattr(cause, "response", None) is None and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE forbids a request for {where}; unset it."
    # Without the client's words about an argument that our user did not give.
    reason = re.sub(r"[^.]*`repo_type`[^.]*\.?", "", redacted(" ".join(str(cause).split())))
    details = f"{type(cause).__name__}: {reason}"[:_REASON_CHARACTERS].rstrip(".: ")
    status = getattr(getattr(cause, "response", None), "status_code", None)
    return f"{where}: {_advice(status)} ({details})."


def _advice(status: int | None) -> str:
    from huggingface_hub import get_token

    token = "your token" if get_token() else "a request without token"
    if status is None:
        return "the connection failed, or the answer made no sense; run the same command again"
    if status == 401:
        return f"{token} is not accepted; {LOG_IN}"
    if status in (402, 403):
        return f"{token} has no right to do this; it needs write access to the repository"
    if status == 404:
        return "there is no such repository, or your token may not see it"
    if status in (409, 412):
        return "it changed meanwhile; nothing was committed. Run the same command again"
    if status >= 500:
        return (
            "the Hub failed. Run the same command again later: files that have arrived are not "
            "sent twice"
        )
    return "the Hub refused"
