"""A comparison of models as a graph of artifacts, each made by one of our commands."""
