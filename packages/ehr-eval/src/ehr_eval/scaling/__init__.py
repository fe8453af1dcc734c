"""`ehr-eval scaling`: loss and share of the way to the best possible against parameters and tokens, with fits."""
