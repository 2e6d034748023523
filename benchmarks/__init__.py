"""Floor 7, the source of the README's figures: each part of the line measured beside what people use instead."""
