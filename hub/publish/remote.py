"""A model repository on the Hub: what it holds, and what its answers mean for the user."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from cassle_zoo.common.errors import CassleZooError, ConfigError, HubError
from cassle_zoo.common.files import sha256
from cassle_zoo.store.download import client_errors, endpoint, redacted
from cassle_zoo.store.folder import FOLDER_FILES
from cassle_zoo.version import __version__

_REASON_CHARACTERS = 500

# Sentences of the client about arguments that our user has not given.
_ABOUT_ARGUMENTS = re.compile(r"[^.]*`repo_type`[^.]*\.?")


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A commit of a model repository.

    Attributes:
        commit: 40 hexadecimal digits.
        private: Whether the repository is private.
        files: Git's hash and, for large files, the SHA-256 of those files that a model folder may
            have, by name. Other names are never looked at, so they cannot lead anywhere.
    """

    commit: str
    private: bool
    files: Mapping[str, tuple[str, str | None]]

    def holds(self, name: str, content: Path | bytes) -> bool:
        """Tell whether a file of the repository has this content."""
        if name not in self.files:
            return False
        blob, lfs = self.files[name]
        if lfs is not None:
            return lfs == sha256(content)
        data = content if isinstance(content, bytes) else content.read_bytes()
        return blob == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def hub_api() -> HfApi:
    """Return the client; address and token are those of the user's environment."""
    return HfApi(library_name="cassle_zoo", library_version=__version__)


def check_repo_id(repo_id: str) -> None:
    """Check the name of a repository.

    Raises:
        ConfigError: If it is not `ORG/NAME`, or has characters that the Hub does not allow.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise ConfigError(
            f"{redacted(repr(repo_id))} cannot be the name of a repository; write ORG/NAME, with "
            "letters, digits, '-', '_' and '.', and at most 96 characters."
        ) from None
    if "/" not in repo_id:
        raise ConfigError(f"repository {repo_id!r} has no owner; write ORG/NAME.")


def inspect_repository(repo_id: str, revision: str = "main") -> Repository | None:
    """Ask what a repository holds.

    Args:
        repo_id: `ORG/NAME`.
        revision: Branch, tag or commit.

    Returns:
        `None` if there is no such repository, or none that the token may see.

    Raises:
        HubError: If the Hub refuses or cannot be reached.
    """
    api = hub_api()
    with hub_errors(repo_id):
        try:
            info = api.model_info(repo_id, revision=revision)
        except RepositoryNotFoundError:
            return None
        found = api.get_paths_info(repo_id, list(FOLDER_FILES), revision=info.sha)
    files = {
        file.path: (file.blob_id, None if file.lfs is None else file.lfs.sha256)
        for file in found
        if isinstance(file, RepoFile) and file.path in FOLDER_FILES
    }
    return Repository(commit=str(info.sha), private=bool(info.private), files=files)


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turn the client's errors into ours, without the token that a server may have sent back.

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
        # Without the client's traceback, because what the server said is in it unredacted.
        raise HubError(_translated(error, repo_id)) from None


def _translated(error: Exception, repo_id: str) -> str:
    where = f"{repo_id!r} at {endpoint()}"
    cause: BaseException = error
    while getattr(cause, "response", None) is None and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE forbids to ask for {where}; unset it."
    reason = re.sub(_ABOUT_ARGUMENTS, "", redacted(" ".join(str(cause).split())))
    response: Any = getattr(cause, "response", None)
    status = None if response is None else response.status_code
    details = f"{type(cause).__name__}: {reason}"[:_REASON_CHARACTERS].rstrip(".: ")
    return f"{where}: {_advice(status)} ({details})."


def _advice(status: int | None) -> str:
    token = "your token" if get_token() else "a request without token"
    if status is None:
        return "the connection failed, or the answer made no sense; run the same command again"
    if status == 401:
        return f"{token} is not accepted; log in with `hf auth login` or set HF_TOKEN"
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
