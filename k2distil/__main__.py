"""python -m k2distil: the same as the k2distil command."""

import sys

from k2distil.bin.main import main

if __name__ == "__main__":
    sys.exit(main())
