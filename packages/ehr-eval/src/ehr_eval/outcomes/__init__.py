"""Judging predicted classes and numbers, beside ordinary models on counts and on frozen features."""
