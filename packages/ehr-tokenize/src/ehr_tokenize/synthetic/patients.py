"""A cohort as JSON: `{"patients": [{"patient_id", "diagnoses", "prescriptions"}]}`.

The format of the ExMed-BERT guide: ICD-10-CM and ATC codes with dates. It has no place for visits,
procedures, measurements, demographics or death; these are left out.
"""

import json
from typing import Any

import numpy as np

from ehr_tokenize.synthetic import codes, novel
from ehr_tokenize.synthetic.block import Block
from ehr_tokenize.synthetic.disease import Ints
from ehr_tokenize.synthetic.records import VOCABULARY
from ehr_tokenize.synthetic.rows import Rows

_ALL = VOCABULARY + novel.NOVEL
_KINDS = {codes.diagnosis(""): "diagnoses", codes.medication(""): "prescriptions"}


def _columns() -> tuple[Ints, list[str]]:
    """For each code its list (-1: none) and its text there."""
    kind = np.full(len(_ALL), -1)
    for i, prefix in enumerate(_KINDS):
        kind[[code.startswith(prefix) for code in _ALL]] = i
    return kind, [code.rsplit("//", 1)[-1] for code in _ALL]


_KIND, _TEXT = _columns()


def patients_json(block: Block, rows: Rows) -> str:
    """The patients of a block, one a line, joined by commas.

    Args:
        block: Whose ids these are.
        rows: Its events as they are to be written.
    """
    kept = np.flatnonzero(_KIND[rows.code] >= 0)
    day = (rows.minute[kept] * 60).astype("datetime64[s]").astype("datetime64[D]").astype(str)
    patients: list[dict[str, Any]] = [
        {"patient_id": f"P{i:04d}"} | {name: [] for name in _KINDS.values()}
        for i in block.ids.tolist()
    ]
    names = list(_KINDS.values())
    for subject, code, date in zip(
        rows.subject[kept].tolist(), rows.code[kept].tolist(), day.tolist(), strict=True
    ):
        patients[subject][names[_KIND[code]]].append({"code": _TEXT[code], "date": date})
    return ",\n".join(json.dumps(p) for p in patients)
