"""The Hugging Face Hub's client: where it looks, and its errors in our words, without tokens."""

import re
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from cassle_zoo.common.errors import (
    CassleZooError,
    ModelFolderError,
    UnknownNameError,
    WeightsUnavailableError,
)

LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
# Formats that are read by unpickling, which runs what the file says.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".tar")


def redacted(text: str) -> str:
    """Return a text without the user's token, other Hub tokens, and passwords in addresses."""
    from huggingface_hub import get_token

    token = get_token()
    if token:
        text = text.replace(token, "***")
    text = re.sub(r"hf_[A-Za-z0-9]{6,}", "***", text)
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def public_cause(error: Exception) -> Exception | None:
    """Return an error to name as a cause; None if its traceback would show a secret."""
    return error if redacted(str(error)) == str(error) else None


def endpoint() -> str:
    """Return the address of the Hub, or of the mirror that stands for it."""
    from huggingface_hub import constants

    return redacted(constants.ENDPOINT)


def is_offline() -> bool:
    """Return whether `HF_HUB_OFFLINE` forbids all requests."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def is_unreachable() -> bool:
    """Return whether the Hub's address cannot be resolved, as without a network.

    The client would try for half a minute. Behind a proxy, which may resolve it, the answer is no.
    """
    from huggingface_hub import constants

    if is_offline() or getproxies():
        return False
    address = urlsplit(constants.ENDPOINT)
    try:
        # Not the scheme as a port: minimal containers have no /etc/services to look it up in.
        socket.getaddrinfo(address.hostname, address.port)
    except OSError:
        return True
    return False


def unreachable_error(what: str, cache_dir: str | Path | None = None) -> WeightsUnavailableError:
    """Return the error for a file that is not cached while the Hub :func:`is_unreachable`.

    Args:
        what: The file, in words.
        cache_dir: The client's cache; `None` for the one in `HF_HOME`.
    """
    from huggingface_hub import constants

    return WeightsUnavailableError(
        f"{what} is not in the cache {cache_dir or constants.HF_HUB_CACHE}, and {endpoint()} "
        "cannot be reached: there seems to be no network. Repeat the command with one (it is "
        "needed only once), set HF_ENDPOINT to a mirror, or HF_HOME to a cache that has the file."
    )


def client_errors() -> tuple[type[Exception], ...]:
    """Return the errors that huggingface_hub raises."""
    from huggingface_hub.errors import HfHubHTTPError

    # HfHubHTTPError's base is the base of all errors of the client's HTTP library, which changed
    # from requests to httpx and on. ValueError: invalid names, and a forced download that failed.
    return (OSError, ValueError, *HfHubHTTPError.__bases__)


def download_error(
    error: Exception, repo: str, revision: str, file: str, cache_dir: str | Path | None
) -> CassleZooError:
    """Return our error for one of :func:`client_errors` that a download raised.

    Args:
        error: The client's error.
        repo: `org/name`.
        revision: Branch, tag or commit.
        file: Name of the file.
        cache_dir: The client's cache; `None` for the one in `HF_HOME`.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, HFValidationError):
        return UnknownNameError(
            f"{repo!r} is not the name of a Hub repository; write hf-hub:ORG/NAME or "
            f"hf-hub:ORG/NAME@REVISION."
        )
    where = f"{repo!r} at {endpoint()}"
    wrapped = isinstance(error, LocalEntryNotFoundError) or type(error) is ValueError
    reason = (error.__cause__ if wrapped else None) or error
    missing = isinstance(reason, EntryNotFoundError)
    if missing and not isinstance(reason, LocalEntryNotFoundError):
        return _missing_file(repo, revision, file)
    if isinstance(reason, RevisionNotFoundError):
        return WeightsUnavailableError(f"{where} has no revision {revision!r}.{_revisions(repo)}")
    if isinstance(reason, GatedRepoError):
        return WeightsUnavailableError(f"{where} is gated: accept its terms there, and {LOG_IN}.")
    if isinstance(reason, RepositoryNotFoundError):
        return WeightsUnavailableError(
            f"There is no repository {where} with revision {revision!r}, or it is private and "
            f"{'your token has no access to it' if get_token() else 'no token is set'}. Check the "
            f"name; for a private repository, {LOG_IN}."
        )
    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    if is_offline() or isinstance(reason, OfflineModeIsEnabled):
        return WeightsUnavailableError(
            f"{file} of {repo!r} at {revision!r} is not downloaded into the cache {cache}, because "
            "HF_HUB_OFFLINE is set. Unset it, or point cache_dir or HF_HOME to the cache that has "
            "the file."
        )
    hint = (
        f"Is {endpoint()} reachable? HF_ENDPOINT sets another address."
        if isinstance(error, LocalEntryNotFoundError)
        else "Nothing incomplete was stored as this file; try again."
    )
    return WeightsUnavailableError(
        f"{file} of {repo!r} at {revision!r} could not be downloaded into the cache {cache}: "
        f"{redacted(f'{type(reason).__name__}: {reason}').rstrip('. ')}. {hint}"
    )


def _missing_file(repo: str, revision: str, file: str) -> ModelFolderError:
    from huggingface_hub import HfApi

    found: list[str] = []
    with suppress(*client_errors()):  # the list only makes the message better
        found = HfApi().list_repo_files(repo, revision=revision)
    message = f"{repo!r} at {revision!r} has no {file}."
    if found:
        message += f" It holds: {', '.join(sorted(found)[:10])}."
    pickles = [name for name in found if name.endswith(_PICKLES)]
    if pickles and "model.safetensors" not in found:
        message += (
            f" {pickles[0]} is not loaded: reading a pickle can run code. Ask its authors for "
            "safetensors, or convert a copy with `cassle-zoo hub convert`, which runs nothing."
        )
    return ModelFolderError(message)


def _revisions(repo: str) -> str:
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(repo)
    except client_errors():
        return " Check the revision."
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    return f" Give one of {', '.join(names[:20])}, or a full commit hash."
