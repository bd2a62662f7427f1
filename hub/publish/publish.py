"""Publishes the zoo: every released model, and the lines that pin it in the registry."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cassle_zoo.hub.publish.pull import pull
from cassle_zoo.hub.publish.push import Pushed, PushPlan, plan_push, push
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store.folder import CARD_FILE, bundled_folder


@dataclass(frozen=True, kw_only=True)
class Published:
    """A model of the zoo on the Hub.

    Attributes:
        name: Full name in the registry.
        plan: What was, or would be, uploaded.
        pushed: The commit; `None` if nothing was to be done.
    """

    name: str
    plan: PushPlan
    pushed: Pushed | None


def publish(
    org: str,
    *,
    private: bool = False,
    replace_card: bool = False,
    dry_run: bool = False,
    on_plan: Callable[[PushPlan], None] | None = None,
) -> Iterator[Published]:
    """Push every released model to `ORG/FULL_NAME`, one after the other.

    Args:
        org: User or organisation on the Hub.
        private: Whether new repositories are private.
        replace_card: Whether to replace README.md files that the repositories have.
        dry_run: Whether to find out only what would be done.
        on_plan: Called with what is about to be done, for each model.

    Yields:
        Each model once it is pushed, so that those before a failure are known.

    Raises:
        CassleZooError: As :func:`cassle_zoo.hub.publish.push.push`.
    """
    for name, spec in MODEL_SPECS.items():
        if not spec.released:
            continue
        repo_id = f"{org}/{name}"
        with tempfile.TemporaryDirectory() as scratch:
            folder = bundled_folder(spec)
            if not folder.is_dir():
                folder = pull(name, Path(scratch) / name)
            if dry_run:
                plan = plan_push(folder, repo_id, private=private, replace_card=replace_card)
                if on_plan is not None:
                    on_plan(plan)
                yield Published(name=name, plan=plan, pushed=None)
            else:
                done = push(
                    folder, repo_id, private=private, replace_card=replace_card, on_plan=on_plan
                )
                yield Published(name=name, plan=done.plan, pushed=done)


def registry_lines(published: Sequence[Published]) -> str:
    """Write the entries of `_HUB` and `_SHA256` in cassle_zoo/specs.py.

    Args:
        published: The models; the commit of one that was not pushed is written `COMMIT`.
    """
    lines = ["_HUB: Mapping[str, tuple[str, str]] = {"]
    for item in published:
        commit = item.pushed.commit if item.pushed else "COMMIT"
        lines += [f'    "{item.name}": (', f'        "{item.plan.repo_id}",']
        lines += [f'        "{commit}",', "    ),"]
    lines += ["}", "", "_SHA256: Mapping[str, Mapping[str, str]] = {"]
    for item in published:
        lines.append(f'    "{item.name}": {{')
        # The card may be edited on the Hub, so it is not pinned.
        lines += [
            f'        "{f.name}": "{f.sha256}",' for f in item.plan.files if f.name != CARD_FILE
        ]
        lines.append("    },")
    return "\n".join([*lines, "}"])
