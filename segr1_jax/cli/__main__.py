"""`python -m segr1_jax.cli`: the same as the console script."""

import sys

from segr1_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
