"""`ehr-eval judge`: predictions judged by every metric, with curves, groups, recalibration and sets."""
