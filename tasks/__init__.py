"""Floor 2: what a task means, in one place for all stages: encode texts, decode outputs, score answers."""
