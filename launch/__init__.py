"""Floor 6, how things are started: the `bertline` command, DeepSpeed's launcher, recipes and cluster files."""
