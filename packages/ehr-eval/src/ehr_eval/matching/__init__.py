"""Labels of cases and of controls that have no index date of their own: each gets that of a case."""
