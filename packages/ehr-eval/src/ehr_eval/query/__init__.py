"""Questions that are inputs: any set of codes and horizon, answered by a model's query head."""
