"""What a teacher is worth to smaller models, on real reviews: `make bench-distill`."""
