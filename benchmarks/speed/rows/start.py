"""Start-up in fresh processes."""

from benchmarks.speed.import_time import measure as measure_imports
from benchmarks.speed.row import Check, Row, medians


def measure(rounds: int) -> Row:
    """Measure `import cassle_zoo` and `cassle-zoo list` beside `import timm`."""
    seconds = measure_imports(rounds)
    middle = medians(seconds)
    return Row(
        title="import cassle_zoo; cassle-zoo list",
        amounts=middle,
        checks=[
            Check(
                name="import cassle_zoo, seconds", value=middle["import cassle_zoo"], at_most=0.15
            ),
            Check(name="cassle-zoo list, seconds", value=middle["cassle-zoo list"], at_most=0.4),
        ],
        seconds=seconds,
    )
