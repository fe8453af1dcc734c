"""A thousand data sets with random faults."""
