"""Entry point of `python -m segr1_jax.cli`, equivalent to the console script."""

import sys

from segr1_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
