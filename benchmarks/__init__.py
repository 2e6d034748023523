"""Floor 7: each part of the line beside what people use instead: where the figures of the README come from."""
