"""`ehr-train text`: language models on narratives, trained by the loop of records."""
