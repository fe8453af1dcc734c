"""The baseline to beat: counts of what a record holds, over windows, ontology and value bins."""
