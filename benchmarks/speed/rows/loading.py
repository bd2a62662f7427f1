"""`create_model(..., pretrained=True)` once the library is imported, beside timm's own loading."""

import timm

import cassle_zoo
from benchmarks.speed.timing import Check, Row, medians, take_turns, times_faster
from cassle_zoo.specs import resolve_spec
from cassle_zoo.store.folder import MODEL_FILE, bundled_folder

NAME = "resnet50_cassle_simclr"


def measure(rounds: int) -> Row:
    """Measure loading from the bundled file; only ours verifies its hash."""
    file = bundled_folder(resolve_spec(NAME)) / MODEL_FILE
    overlay = {"file": str(file), "num_classes": 0}

    def ours() -> None:
        cassle_zoo.create_model(NAME, pretrained=True)

    def theirs() -> None:
        timm.create_model(
            "resnet50", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0
        )

    seconds = take_turns({"cassle-zoo": ours, "timm": theirs}, 3 * rounds, warm=2)
    middle = medians(seconds)
    return Row(
        title=f'create_model("{NAME}", pretrained=True)',
        amounts=middle,
        checks=[
            Check("seconds, hash verified", middle["cassle-zoo"], at_most=0.09),
            Check("times faster than timm", times_faster(seconds, "cassle-zoo", "timm")),
        ],
        seconds=seconds,
    )
