"""A MEDS data set: its rows read as arrays, checked, mended and written."""
