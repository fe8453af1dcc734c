"""Judging predicted times to an event, beside Cox regressions on counts and on frozen features."""
