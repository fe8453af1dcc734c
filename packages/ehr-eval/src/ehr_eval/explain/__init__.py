"""What a model goes by, and what it tells of whom it was trained on."""
