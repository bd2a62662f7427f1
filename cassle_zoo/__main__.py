"""``python -m cassle_zoo`` is ``cassle-zoo``."""

import sys

from cassle_zoo.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
