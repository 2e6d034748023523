"""What a rank executes in the place of `bertline.train`: the same, with batches that are drawn at random."""

import os
import sys

from bertline.train.__main__ import ENVIRONMENT, main

if __name__ == "__main__":
    for name, value in ENVIRONMENT.items():  # torch reads it on import, which is next
        os.environ.setdefault(name, value)
    from bertline.train.data import batches

    batches.BUCKET = 1  # a bucket is a batch: nothing is left to be sorted among batches
    sys.exit(main())
