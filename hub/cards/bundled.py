"""Writes the cards of the bundled models, from their config.json and the recorded results."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cassle_zoo.common.errors import CassleZooError
from cassle_zoo.hub.cards.card import checked_card
from cassle_zoo.hub.cards.recorded import own_and_baselines, read_results
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store.folder import CARD_FILE, bundled_folder


def bundled_cards() -> dict[Path, str]:
    """Return what the README.md of each bundled model should be, by path.

    Raises:
        ModelFolderError: If a result is malformed, or was measured with other weights.
    """
    results = read_results()
    cards = {}
    for name, spec in MODEL_SPECS.items():
        folder = bundled_folder(spec)
        if spec.released and folder.is_dir():
            shown = own_and_baselines(name, spec.timm_arch, results)
            cards[folder / CARD_FILE] = checked_card(folder, shown)
    return cards


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the cards; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cassle_zoo.hub.cards.bundled", description=__doc__
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if one is stale")
    args = parser.parse_args(argv)
    try:
        cards = bundled_cards()
    except CassleZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    stale = [
        path
        for path, text in cards.items()
        if not path.is_file() or path.read_bytes() != text.encode()
    ]
    for path in stale:
        if args.check:
            print(f"{path} is stale; run `make docs` and commit it.", file=sys.stderr)
        else:
            path.write_bytes(cards[path].encode())
    return int(args.check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
