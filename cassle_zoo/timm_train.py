"""``python -m cassle_zoo.timm_train train.py ...`` runs one of timm's scripts with our models.

timm's `train.py`, `validate.py` and the like know only the models that are registered when they
start, and timm has no entry points for others. This imports cassle_zoo, which registers ours, and
then runs the script as `python train.py ...` would: unchanged, with its own arguments.
"""

import importlib.metadata
import runpy
import sys
from pathlib import Path

from cassle_zoo.common.exit_status import ExitStatus

_USAGE = "python -m cassle_zoo.timm_train SCRIPT.py [the script's arguments]"


def main(arguments: list[str]) -> ExitStatus:
    """Run a script in this process.

    Args:
        arguments: Its path, then its own arguments.

    Returns:
        Exit status: 0 once the script has ended, 2 if there is none. What the script raises,
        `SystemExit` with its own status included, is not caught.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: {_USAGE}\n\n{__doc__}", file=sys.stdout if arguments else sys.stderr)
        return ExitStatus.OK if arguments else ExitStatus.ERROR
    script = Path(arguments[0])
    if not script.is_file():
        print(
            f"timm_train: {arguments[0]!r} is not a file; give the script first: {_USAGE}. timm's "
            "wheel has no scripts; take those of your version from "
            "https://github.com/huggingface/pytorch-image-models/tree/"
            f"v{importlib.metadata.version('timm')}.",
            file=sys.stderr,
        )
        return ExitStatus.ERROR
    sys.argv = [str(script), *arguments[1:]]
    sys.path[0] = str(script.resolve().parent)  # where Python looks for the script's own imports
    runpy.run_path(str(script), run_name="__main__")
    return ExitStatus.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
