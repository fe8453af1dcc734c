"""Vectors of codes that others trained, laid under the embedding of a new model."""
