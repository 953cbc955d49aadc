"""`python -m tanuki_async` is the command `tanuki`."""

import sys

from tanuki_async._cli import main

if __name__ == "__main__":  # a process pool imports this module anew
    sys.exit(main())
