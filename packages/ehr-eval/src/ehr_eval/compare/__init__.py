"""`ehr-eval compare`: one page, tables and the facts of a methods section, from sealed artifacts alone."""
