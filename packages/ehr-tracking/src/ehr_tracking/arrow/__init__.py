"""What several packages read or write as Arrow tables: labels, MEDS, splits, features, delays."""
