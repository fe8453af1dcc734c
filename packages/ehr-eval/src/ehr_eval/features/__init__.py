"""One vector for each (subject, prediction time), read from a pretrained model."""
