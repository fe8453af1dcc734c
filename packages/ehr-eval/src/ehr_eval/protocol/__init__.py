"""EHRSHOT's few-shot protocol, cell by cell."""
