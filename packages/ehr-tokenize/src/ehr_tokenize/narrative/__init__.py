"""A subject's record, up to a prediction time, as text for a language model."""
