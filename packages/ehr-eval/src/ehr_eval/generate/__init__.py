"""Futures drawn from causal models: dated, stopped, written as MEDS events, and looked on at."""
