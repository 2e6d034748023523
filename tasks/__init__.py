"""Floor 2: what a task means, in one place for all stages: encode text, decode outputs, score them."""
