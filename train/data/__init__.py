"""What a recipe's data becomes: rows read, split, tokenized once, mapped by all ranks, dealt in batches."""
