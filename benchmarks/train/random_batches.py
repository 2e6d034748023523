"""What a rank executes instead of `bertline.train`: the same, but with batches drawn at random."""

import os
import sys

from bertline.train.__main__ import ENVIRONMENT, main

if __name__ == "__main__":
    for name, value in ENVIRONMENT.items():  # torch, imported next, reads it on import
        os.environ.setdefault(name, value)
    from bertline.train.data import batches

    batches.BUCKET = 1  # one batch per bucket leaves nothing to sort by length
    sys.exit(main())
