"""What a model is asked of a packed batch, and the sum of its losses."""
