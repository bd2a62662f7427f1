"""``cassle-zoo hub push``, ``pull``, ``verify`` and ``publish``: what concerns the Hub itself."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cassle_zoo.hub.publish.push import PushPlan

EXIT_FAILED_CHECK = 1

_WHERE = "a name of the zoo, hf-hub:ORG/NAME or ORG/NAME, @REVISION after it, or a folder"


def add_actions(actions: Any) -> None:
    """Describe the actions' arguments."""
    push = actions.add_parser(
        "push",
        help="upload a model folder",
        description="Verify a model folder and upload it to the Hugging Face Hub in one commit. "
        "Log in before with `hf auth login`, or set HF_TOKEN. Only the files of a model folder are "
        "sent, and of these only the ones that changed.",
    )
    push.add_argument("folder", type=Path, metavar="DIR", help="model folder")
    push.add_argument("repo_id", metavar="ORG/NAME", help="repository; created if it is missing")
    _add_private(push)
    push.add_argument(
        "--create-pr", action="store_true", help="open a pull request instead of committing to main"
    )
    _add_replace_card(push)
    _add_dry_run(push)
    push.set_defaults(run=run_push)

    pull = actions.add_parser(
        "pull",
        help="download a model, for use without a network",
        description="Download all files of a model into the cache of the Hub, check them, and "
        "print where they lie.",
    )
    pull.add_argument("name", metavar="NAME", help=_WHERE)
    pull.add_argument("-o", "--output", type=Path, metavar="DIR", help="copy the files there")
    pull.add_argument(
        "--force", action="store_true", help="download again, and replace a model folder at DIR"
    )
    pull.set_defaults(run=run_pull)

    verify = actions.add_parser(
        "verify",
        help="check a model folder or a repository",
        description="Check hashes, load backbone and projector completely, recompute the stored "
        "features, and read the model card. Exit status 1 if a check fails.",
    )
    verify.add_argument("name", metavar="REPO_OR_DIR", help=_WHERE)
    verify.add_argument("--revision", metavar="R", help="branch, tag or commit; default: main")
    verify.set_defaults(run=run_verify)

    publish = actions.add_parser(
        "publish",
        help="upload every released model of the zoo",
        description="Push every released model to ORG/FULL_NAME, and print the lines that pin them "
        "in cassle_zoo/specs.py.",
    )
    publish.add_argument("--org", required=True, help="user or organisation on the Hub")
    _add_private(publish)
    _add_replace_card(publish)
    _add_dry_run(publish)
    publish.set_defaults(run=run_publish)


def _add_private(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--private",
        action="store_true",
        help="make a new repository private; refuse one that exists and is public",
    )


def _add_replace_card(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--replace-card",
        action="store_true",
        help="replace a README.md that the repository has; by default it stays",
    )


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be done, and write nothing"
    )


def run_push(args: argparse.Namespace) -> int:
    """Push, or show what would be pushed."""
    from cassle_zoo.hub.publish.push import plan_push, push

    if args.dry_run:
        plan = plan_push(
            args.folder,
            args.repo_id,
            private=args.private,
            create_pr=args.create_pr,
            replace_card=args.replace_card,
        )
        _print_plan(plan)
        target = "a pull request" if args.create_pr else "main"
        print(f"dry run: nothing was written; the commit would go to {target}")
        return 0
    done = push(
        args.folder,
        args.repo_id,
        private=args.private,
        create_pr=args.create_pr,
        replace_card=args.replace_card,
        on_plan=_print_plan,
    )
    print(f"url:    {done.url}")
    print(f"commit: {done.commit}")
    return 0


def run_pull(args: argparse.Namespace) -> int:
    """Download, and print where the files lie."""
    from cassle_zoo.hub.publish.pull import pull

    print(pull(args.name, args.output, force=args.force))
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Print a line per check."""
    from cassle_zoo.hub.publish.verify import verify

    checks = verify(args.name, revision=args.revision)
    for check in checks:
        print(f"{'ok' if check.passed else 'FAILED':7}{check.name:11}{check.detail}")
    return 0 if all(check.passed for check in checks) else EXIT_FAILED_CHECK


def run_publish(args: argparse.Namespace) -> int:
    """Push the zoo, and print the registry's lines."""
    from cassle_zoo.hub.publish.publish import publish, registry_lines

    published = []
    for item in publish(
        args.org,
        private=args.private,
        replace_card=args.replace_card,
        dry_run=args.dry_run,
        on_plan=_print_plan,
    ):
        if item.pushed is not None:
            print(f"commit: {item.pushed.url}")
        published.append(item)
    if args.dry_run:
        print("dry run: nothing was written")
    print(f"\nfor cassle_zoo/specs.py:\n\n{registry_lines(published)}")
    return 0


def _print_plan(plan: "PushPlan") -> None:
    visibility = "private" if plan.private else "public"
    state = "new repository" if plan.parent is None else f"at {plan.parent}"
    print(f"{plan.model} -> {plan.repo_id} ({state}, {visibility})")
    for file in plan.files:
        note = " (the repository's own stays)" if file.state == "kept" else ""
        print(f"  {file.state:10}{file.size:>12,}  {file.sha256}  {file.name}{note}")
    for name in plan.left_out:
        print(f"  left out  {name!r}: not part of a model folder")
