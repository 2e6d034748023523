"""From a recipe's data files to batches: rows are read, split, tokenized once, memory-mapped and dealt to the ranks."""
