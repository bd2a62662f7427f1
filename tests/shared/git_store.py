"""Git repositories as the Hub keeps them: large files as LFS pointers, no folders in them."""

import contextlib
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olah_server import GIT_ENVIRONMENT, repository_path

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


class Repositories:
    """The git repositories below a folder.

    Attributes:
        private: Names of the private ones.
    """

    def __init__(self, mirrors: Path) -> None:
        self.mirrors = mirrors
        self.private: set[str] = set()

    def create(self, repo_id: str, *, private: bool) -> None:
        self._path(repo_id).mkdir(parents=True)
        self._git(repo_id, "init", "--quiet", "--initial-branch=main")
        if private:
            self.private.add(repo_id)
        self.commit(repo_id, "refs/heads/main", None, {".gitattributes": b""}, "initial commit")

    def exists(self, repo_id: str) -> bool:
        return self._path(repo_id).is_dir()

    def resolve(self, repo_id: str, revision: str) -> str | None:
        names = (revision, f"refs/heads/{revision}")
        for name in names:
            with contextlib.suppress(subprocess.CalledProcessError):
                return self._git(repo_id, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        return None

    def log(self, repo_id: str, revision: str = "main") -> list[str]:
        """Return the contexts of the commits, the newest first."""
        return self._git(repo_id, "log", "--format=%s", revision).splitlines()

    def files(self, repo_id: str, commit: str) -> dict[str, dict[str, Any]]:
        """Return what the Hub tells about each file."""
        found = {}
        for line in self._git(repo_id, "ls-tree", "--long", commit).splitlines():
            (_, _, oid, size), name = line.split("\t")[0].split(), line.split("\t")[1]
            info: dict[str, Any] = {"type": "file", "path": name, "oid": oid, "size": int(size)}
            if 100 < int(size) < 200:
                content = self._git(repo_id, "cat-file", "blob", oid)
                if match := re.search(r"oid sha256:(\w{64})\nsize (\d+)", content):
                    info["size"] = int(match[2])
                    info["lfs"] = {
                        "oid": match[1],
                        "size": int(match[2]),
                        "pointerSize": int(size),
                    }
            found[name] = info
        return found

    def read(self, repo_id: str, name: str, revision: str = "main") -> bytes:
        """Return the content of a file."""
        commit = self.resolve(repo_id, revision)
        assert commit is not None
        info = self.files(repo_id, commit)[name]
        if "lfs" in info:
            return self.lfs_path(repo_id, info["lfs"]["oid"]).read_bytes()
        return self._raw(repo_id, "cat-file", "blob", info["oid"])

    def lfs_path(self, repo_id: str, oid: str) -> Path:
        return self._path(repo_id) / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid

    def commit(
        self,
        repo_id: str,
        ref: str,
        parent: str | None,
        files: Mapping[str, bytes | None],
        message: str,
    ) -> str:
        """Commit files; those whose content is `None` are removed."""
        tree = {} if parent is None else self.files(repo_id, parent)
        entries = {name: info["oid"] for name, info in tree.items()}
        for name, content in files.items():
            if content is None:
                del entries[name]
                continue
            oid = self._raw(repo_id, "hash-object", "-w", "--stdin", stdin=content)
            entries[name] = oid.decode().strip()
        listing = "".join(f"100644 blob {oid}\t{name}\n" for name, oid in sorted(entries.items()))
        root = self._raw(repo_id, "mktree", stdin=listing.encode()).decode().strip()
        parents = () if parent is None else ("-p", parent)
        commit = self._git(repo_id, "commit-tree", root, *parents, "-m", message)
        self._git(repo_id, "update-ref", ref, commit)
        return commit

    def next_pull_request(self, repo_id: str) -> int:
        return len(self._git(repo_id, "for-each-ref", "refs/pr").splitlines()) + 1

    def _path(self, repo_id: str) -> Path:
        return repository_path(self.mirrors, repo_id)

    def _git(self, repo_id: str, *arguments: str) -> str:
        return self._raw(repo_id, *arguments).decode().strip()

    def _raw(self, repo_id: str, *arguments: str, stdin: bytes = b"") -> bytes:
        done = subprocess.run(
            ["git", *arguments],
            cwd=self._path(repo_id),
            env={**os.environ, **GIT_ENVIRONMENT},
            input=stdin,
            check=True,
            capture_output=True,
        )
        return done.stdout
