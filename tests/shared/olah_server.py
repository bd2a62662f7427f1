"""A Hugging Face Hub on loopback that we did not write: the mirror server `olah`.

It serves git repositories below a folder, `MIRRORS/models/ORG/NAME`, to the real client. What
olah 0.5 does and does not do when it is offline:

- Files, trees and metadata by branch, tag or commit; Git LFS objects. Read-only.
- Tokens are ignored: every repository is public. (A proxy in front can ask for one.)
- `/api/models/ORG/NAME` without a revision asks the Hub even for a mirrored repository, so it
  answers 401: `model_info(repo)` fails, `model_info(repo, revision="main")` works.
- A missing repository: 401 with code RepoNotFound, as the Hub. A wrong branch or tag, or a missing
  file on a branch: the same 401, where the Hub answers 404 with RevisionNotFound or EntryNotFound.
- A missing file of a commit: 404 with code EntryNotFound, as the Hub. A wrong commit: 500 (the
  client tries again for 23 seconds), where the Hub answers 404 with RevisionNotFound.
- A range is ignored: the answer is 200 with the whole file.
"""

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

_LFS_SUFFIXES = (".safetensors", ".bin")
_START_SECONDS = 60

# Neither the user's settings nor the time of day change a commit.
GIT_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "tests",
    "GIT_AUTHOR_EMAIL": "tests@example.org",
    "GIT_COMMITTER_NAME": "tests",
    "GIT_COMMITTER_EMAIL": "tests@example.org",
}


def git(repository: Path, *arguments: str) -> str:
    """Run git in a repository and return what it printed."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=repository,
        env={**os.environ, **GIT_ENVIRONMENT},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def repository_path(mirrors: Path, repo_id: str) -> Path:
    """Return where olah looks for a model repository `org/name`."""
    return mirrors / "models" / repo_id


def make_repository(mirrors: Path, repo_id: str, folder: Path, *, tag: str | None = None) -> str:
    """Commit the files of a folder to branch main, weights as LFS objects as on the Hub.

    The repository is created if need be; its commit then holds exactly the folder's files.

    Args:
        mirrors: olah's folder of repositories.
        repo_id: `org/name`.
        folder: The files; no sub-folders.
        tag: Name of a git tag to set, if any.

    Returns:
        The commit, 40 hexadecimal digits.
    """
    repository = repository_path(mirrors, repo_id)
    if not repository.exists():
        repository.mkdir(parents=True)
        git(repository, "init", "--quiet", "--initial-branch=main")
    for old in repository.iterdir():
        if old.is_file():
            old.unlink()
    for path in folder.iterdir():
        if path.suffix in _LFS_SUFFIXES:
            (repository / path.name).write_text(_store_lfs_object(repository, path))
        else:
            shutil.copyfile(path, repository / path.name)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", f"Upload {folder.name}")
    if tag is not None:
        git(repository, "tag", tag)
    return git(repository, "rev-parse", "HEAD")


def lfs_object(mirrors: Path, repo_id: str, path: Path) -> Path:
    """Return where a repository keeps the content of a weights file."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _lfs_path(repository_path(mirrors, repo_id), digest)


def _lfs_path(repository: Path, digest: str) -> Path:
    return repository / ".git" / "lfs" / "objects" / digest[:2] / digest[2:4] / digest


def _store_lfs_object(repository: Path, path: Path) -> str:
    """Store a file's content, and return the text of the pointer that git keeps instead."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    target = _lfs_path(repository, digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return (
        "version https://git-lfs.github.com/spec/v1\n"
        f"oid sha256:{digest}\nsize {len(content)}\n"
    )  # fmt: skip


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def olah(folder: Path) -> Iterator[str]:
    """Run olah; the client finds it by `HF_ENDPOINT`.

    Args:
        folder: For olah's files; repositories go below `folder / "mirrors"`, also while it runs.

    Yields:
        The endpoint, `http://127.0.0.1:PORT`.
    """
    (folder / "mirrors").mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "olah.toml"
    config.write_text(
        f"""
[basic]
host = "127.0.0.1"
port = {port}
repos-path = "{folder / "cache"}"
mirrors-path = ["{folder / "mirrors"}"]
hf-scheme = "http"
hf-netloc = "127.0.0.1:9"
hf-lfs-netloc = "127.0.0.1:9"

[accessibility]
offline = true
"""
    )
    # Of another environment if need be: olah wants a newer client than the oldest we support.
    python = os.environ.get("CASSLE_ZOO_OLAH_PYTHON", sys.executable)
    command = [python, "-m", "olah.server", "-c", str(config), "--log-path", str(folder)]
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _wait_until_it_answers(endpoint, process, folder / "output.txt")
        yield endpoint
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(endpoint: str, process: subprocess.Popen[bytes], output: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{endpoint}/api/models/no/repository/refs", timeout=5)
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"olah did not start:\n{output.read_text()}")
