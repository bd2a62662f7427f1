"""A model repository on the Hub: its name, its commit and its files."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.files import sha256
from cassle_zoo.common.hub_client import redacted
from cassle_zoo.store.download import hub_errors
from cassle_zoo.store.folder import ALLOWED_FILES
from cassle_zoo.version import __version__


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A commit of a model repository.

    Attributes:
        commit: 40 hexadecimal digits.
        private: Whether the repository is private.
        files: By name, Git's hash and, for large files, the SHA-256 of each file that a model
            folder may have. Other names are never looked at, so they cannot lead anywhere.
    """

    commit: str
    private: bool
    files: Mapping[str, tuple[str, str | None]]

    def holds(self, name: str, content: Path | bytes) -> bool:
        """Return whether a file of the repository has this content."""
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
    """Look up a repository.

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
        found = api.get_paths_info(repo_id, list(ALLOWED_FILES), revision=info.sha)
    files = {
        file.path: (file.blob_id, None if file.lfs is None else file.lfs.sha256)
        for file in found
        if isinstance(file, RepoFile) and file.path in ALLOWED_FILES
    }
    return Repository(commit=str(info.sha), private=bool(info.private), files=files)
