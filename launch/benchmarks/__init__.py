"""What the README's figures come from: each part of the line beside what people use instead, by `make bench-…`."""
