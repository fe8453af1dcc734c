"""What the columns of features are called."""

import json

from ehr_eval.features.read import FeatureSet


def feature_names(found: FeatureSet) -> list[str]:
    """What the columns of features are called, by their `columns.json`, else by number."""
    path = found.directory / "columns.json"
    if path.is_file():
        told = json.loads(path.read_bytes()).get("columns")
        if isinstance(told, list) and len(told) == found.mapped.shape[1]:
            return [str(name) for name in told]
    return [f"column {i}" for i in range(found.mapped.shape[1])]
