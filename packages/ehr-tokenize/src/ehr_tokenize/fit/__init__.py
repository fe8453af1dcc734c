"""A tokenizer from the train split, or from a dictionary that others fitted."""
