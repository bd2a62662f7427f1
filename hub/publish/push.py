"""`push`: a model folder to the Hub, verified, in one commit; `publish`: the whole zoo."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from cassle_zoo.common.errors import ConfigError, HubError, ModelFolderError
from cassle_zoo.common.files import sha256
from cassle_zoo.common.terminal import busy
from cassle_zoo.hub.cards.card import CARD_REPO
from cassle_zoo.hub.publish.pull import pull
from cassle_zoo.hub.publish.remote import (
    Repository,
    check_repo_id,
    hub_api,
    inspect_repository,
)
from cassle_zoo.hub.publish.verify import folder_content, verify_folder
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store.download import hub_errors
from cassle_zoo.store.folder import CARD_FILE, bundled_folder, read_config
from cassle_zoo.version import __version__

NEW, CHANGED, UNCHANGED, KEPT = "new", "changed", "unchanged", "kept"


@dataclass(frozen=True, kw_only=True)
class PushFile:
    """One file of a push.

    Attributes:
        name: Its name, in the folder and in the repository.
        content: Path of the file, or the bytes that are sent instead.
        size: In bytes.
        sha256: Of the content.
        state: `new`, `changed`, `unchanged` (not sent), or `kept` (the repository's own README.md
            stays).
    """

    name: str
    content: Path | bytes
    size: int
    sha256: str
    state: str


@dataclass(frozen=True, kw_only=True)
class PushPlan:
    """A planned push.

    Attributes:
        repo_id: `ORG/NAME`.
        parent: Latest commit of the repository; `None` if there is no repository yet.
        private: Whether the repository is, or will be, private.
        files: The files of the folder.
        left_out: Names in the folder that are not uploaded.
        removed: Files of a model folder that are in the repository but not in the folder, such as
            the whitening of former weights; the commit removes them.
        model: Full name of the model.
    """

    repo_id: str
    parent: str | None
    private: bool
    files: tuple[PushFile, ...]
    left_out: tuple[str, ...]
    removed: tuple[str, ...] = ()
    model: str


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A push that was made, or only planned.

    Attributes:
        plan: Its plan.
        commit: Commit that has the files, 40 hexadecimal digits; `None` if it was only planned.
        url: Its address, or the pull request's.
    """

    plan: PushPlan
    commit: str | None = None
    url: str | None = None


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    replace_card: bool = False,
    dry_run: bool = False,
    on_plan: Callable[[PushPlan], None] = lambda _: None,
) -> Pushed:
    """Upload a model folder, after verifying it, in one commit.

    Only files of a model folder are sent, and only those that changed; those in the repository but
    not in the folder belong to former weights, and are removed. The repository is created if it is
    missing. `hf-hub:ORG/NAME` in the card becomes the repository's own name.

    Args:
        folder: The model folder.
        repo_id: `ORG/NAME`.
        private: Whether a new repository is private.
        create_pr: Whether to open a pull request, for which the repository must exist, instead of
            committing to `main`.
        replace_card: Whether to replace a README.md that the repository has.
        dry_run: Whether to stop before anything is written.
        on_plan: Called with the plan.

    Returns:
        The plan, and the commit: the present one if nothing had to be sent, none in a dry run.

    Raises:
        ModelFolderError: If a check of :func:`cassle_zoo.hub.publish.verify.verify_folder` fails;
            all that fail are named. If a file is a symbolic link that leads out of the folder.
        ConfigError: If `repo_id` is malformed, is public though `private` is wanted, or does not
            exist though `create_pr` is wanted.
        HubError: If the Hub refuses or cannot be reached, the repository changed meanwhile, or
            a file did not arrive as it was sent.
    """
    plan = _plan(
        Path(folder), repo_id, private=private, create_pr=create_pr, replace_card=replace_card
    )
    on_plan(plan)
    if dry_run:
        return Pushed(plan=plan)
    sent = [file for file in plan.files if file.state in (NEW, CHANGED)]
    api = hub_api()
    if plan.parent is not None and not sent and not plan.removed:
        url = f"{api.endpoint}/{repo_id}/commit/{plan.parent}"
        return Pushed(plan=plan, commit=plan.parent, url=url)
    with hub_errors(repo_id):
        if plan.parent is None:
            api.create_repo(repo_id, private=private)
        done = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(file.name, file.content) for file in sent),
                *(CommitOperationDelete(name) for name in plan.removed),
            ],
            commit_message=f"Upload {plan.model}",
            commit_description=f"With cassle-zoo {__version__}.",
            create_pr=create_pr,
            parent_commit=plan.parent,
        )
    _check_arrived(plan, done.oid)
    return Pushed(plan=plan, commit=done.oid, url=done.pr_url or done.commit_url)


def _plan(
    folder: Path, repo_id: str, *, private: bool, create_pr: bool, replace_card: bool
) -> PushPlan:
    check_repo_id(repo_id)
    names, left_out = folder_content(folder)
    _check_links(folder, names)
    with busy(f"checking {folder}"):
        failed = [check for check in verify_folder(folder) if not check.passed]
    if failed:
        # One missing file may make several checks fail.
        by_reason: dict[str, list[str]] = {}
        for check in failed:
            by_reason.setdefault(check.detail.rstrip(". "), []).append(check.name)
        reasons = "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items())
        raise ModelFolderError(f"{folder} is not uploaded. {reasons}.")
    repository = inspect_repository(repo_id)
    if repository is None and create_pr:
        raise ConfigError(
            f"there is no repository {repo_id!r} for a pull request, or your token may not see it, "
            "so nothing is uploaded; check the name, or leave out --create-pr to create it."
        )
    if repository is not None and private and not repository.private:
        raise ConfigError(
            f"{repo_id!r} exists and is public, so nothing is uploaded; make it private in its "
            "settings on the Hub, or leave out --private."
        )
    files = tuple(_planned(folder / name, repo_id, repository, replace_card) for name in names)
    there = () if repository is None else tuple(repository.files)
    return PushPlan(
        repo_id=repo_id,
        parent=None if repository is None else repository.commit,
        private=private if repository is None else repository.private,
        files=files,
        left_out=left_out,
        removed=tuple(name for name in there if name not in names),
        model=read_config(folder)["cassle_zoo"]["name"],
    )


def _check_links(folder: Path, names: Iterable[str]) -> None:
    """Refuse links that lead out of the folder."""
    inside = folder.resolve()
    for name in names:
        target = (folder / name).resolve()
        if not target.is_relative_to(inside):
            raise ModelFolderError(
                f"{folder / name} is a symbolic link that leads out of the folder, to {target}, so "
                "nothing is uploaded. `cassle-zoo hub pull NAME -o DIR` makes a folder of files."
            )


def _planned(
    path: Path, repo_id: str, repository: Repository | None, replace_card: bool
) -> PushFile:
    content: Path | bytes = path
    if path.name == CARD_FILE:
        content = path.read_bytes().replace(CARD_REPO.encode(), f"hf-hub:{repo_id}".encode())
    if repository is None or path.name not in repository.files:
        state = NEW
    elif repository.holds(path.name, content):
        state = UNCHANGED
    else:
        state = KEPT if path.name == CARD_FILE and not replace_card else CHANGED
    return PushFile(
        name=path.name,
        content=content,
        size=len(content) if isinstance(content, bytes) else content.stat().st_size,
        sha256=sha256(content),
        state=state,
    )


def _check_arrived(plan: PushPlan, commit: str) -> None:
    """Check the content of the commit; a .gitignore there makes the Hub drop files silently."""
    repository = inspect_repository(plan.repo_id, commit)
    wrong = [
        *(name for name in plan.removed if repository is None or name in repository.files),
        *(
            file.name
            for file in plan.files
            if file.state != KEPT
            and (repository is None or not repository.holds(file.name, file.content))
        ),
    ]
    if wrong:
        raise HubError(
            f"commit {commit} of {plan.repo_id!r} does not hold {', '.join(wrong)} as sent. Is "
            "there a .gitignore in the repository, or did the folder change meanwhile?"
        )


def publish(
    org: str,
    *,
    private: bool = False,
    replace_card: bool = False,
    dry_run: bool = False,
    on_plan: Callable[[PushPlan], None] = lambda _: None,
) -> Iterator[Pushed]:
    """Push every released model to `ORG/FULL_NAME`, one after the other.

    Args:
        org: User or organisation on the Hub.
        private: Whether new repositories are private.
        replace_card: Whether to replace README.md files that the repositories have.
        dry_run: Whether to stop before anything is written.
        on_plan: Called with the plan of each model.

    Yields:
        Each model once it is pushed, so a failure does not hide those before it.

    Raises:
        CassleZooError: As :func:`push`.
    """
    for name, spec in MODEL_SPECS.items():
        if not spec.released:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = bundled_folder(spec)
            if not folder.is_dir():
                folder = pull(name, Path(scratch) / name)
            yield push(
                folder,
                f"{org}/{name}",
                private=private,
                replace_card=replace_card,
                dry_run=dry_run,
                on_plan=on_plan,
            )


def registry_lines(published: Sequence[Pushed]) -> str:
    """Write the entries of `_HUB` and `_SHA256` in cassle_zoo/specs.py.

    Args:
        published: The models; the commit of one that was only planned is written `COMMIT`.
    """
    lines = ["_HUB: Mapping[str, tuple[str, str]] = {"]
    for item in published:
        lines += [f'    "{item.plan.model}": (', f'        "{item.plan.repo_id}",']
        lines += [f'        "{item.commit or "COMMIT"}",', "    ),"]
    lines += ["}", "", "_SHA256: Mapping[str, Mapping[str, str]] = {"]
    for item in published:
        lines.append(f'    "{item.plan.model}": {{')
        # The card may be edited on the Hub, so it is not pinned.
        lines += [
            f'        "{f.name}": "{f.sha256}",' for f in item.plan.files if f.name != CARD_FILE
        ]
        lines.append("    },")
    return "\n".join([*lines, "}"])
