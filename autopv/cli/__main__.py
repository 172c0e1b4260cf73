"""`python -m autopv.cli` is `autopv`."""

import sys

from autopv.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
