"""From a batch to answers, the same way for every kind."""
