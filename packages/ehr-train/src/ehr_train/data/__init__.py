"""What a model is shown of a data set, and in which order."""
