"""Start-up in fresh processes: `import cassle_zoo` and `cassle-zoo list` beside `import timm`."""

import subprocess
import sys
from functools import partial

from benchmarks.speed.timing import Check, Row, medians, take_turns

COMMANDS = {
    "python (nothing)": ["-c", "pass"],
    "import cassle_zoo": ["-c", "import cassle_zoo"],
    "cassle-zoo list": ["-m", "cassle_zoo", "list"],
    "import timm": ["-c", "import timm"],
}


def measure(rounds: int) -> Row:
    """Measure each command from the interpreter's start to its exit."""
    turns = {
        name: partial(
            subprocess.run, [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL
        )
        for name, arguments in COMMANDS.items()
    }
    seconds = take_turns(turns, rounds)  # the warm turn fills the file cache
    middle = medians(seconds)
    return Row(
        title="import cassle_zoo; cassle-zoo list",
        amounts=middle,
        checks=[
            Check("import cassle_zoo, seconds", middle["import cassle_zoo"], at_most=0.15),
            Check("cassle-zoo list, seconds", middle["cassle-zoo list"], at_most=0.4),
        ],
        seconds=seconds,
    )
