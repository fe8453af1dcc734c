"""Predictions that other systems made, as predictions/1: whatever their files call their columns."""
