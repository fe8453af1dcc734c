"""The codes of this world, and which of them carry a risk. Titles and parents are the cohort's."""

from ehr_tokenize.synthetic import codes

ORDERED = tuple(codes.medication(x) for x in ("C03CA01", "C07AB02", "C01BD01"))
"""Furosemide, metoprolol, amiodarone: harm when given in this order."""
DOSE = codes.medication("N02AA01")
"""Morphine: harms while it is fresh."""
FLARE = codes.diagnosis("E11.65")
"""Diabetes with hyperglycemia, as coded at a visit: harms while it is recent."""
LEVEL = next(x for x in codes.measurements() if "//718-7//" in x)
"""Hemoglobin: harms when it falls fast."""
FINDING, TREATMENT = codes.diagnosis("J18.9"), codes.medication("J01DD04")
"""Pneumonia, and ceftriaxone: harms unless treated in time."""

PRESSURE = next(x for x in codes.measurements() if "//8480-6//" in x)
COMPLAINTS = tuple(
    codes.diagnosis(x) for x in ("R05.9", "M54.50", "R51.9", "K21.9", "R42", "L30.9", "R10.9")
)
WARD_DRUGS = tuple(codes.medication(x) for x in ("N02BE01", "A02BC01", "B01AB05", "B05BB01"))
"""What tells nothing."""
GENDERS = ("GENDER//F", "GENDER//M")
RACES = tuple(f"RACE//{x}" for x in ("ASIAN", "BLACK", "HISPANIC", "OTHER", "WHITE"))


def code_rows(outcomes: tuple[str, ...]) -> list[tuple[str, str | None, list[str]]]:
    """Rows (code, description, parents) of `codes.parquet`, sorted by code.

    Args:
        outcomes: Codes of the outcomes.

    Examples:
        >>> [row[0] for row in code_rows(()) if row[0].startswith("ICD10CM/J")]
        ['ICD10CM/J', 'ICD10CM/J18']
    """
    table = {row[0]: row for row in codes.code_table()}
    wanted = [
        *(codes.BIRTH, codes.DEATH, codes.VISIT_START, codes.VISIT_END),
        *(codes.EMERGENCY, codes.HOME, DOSE, FLARE, LEVEL, FINDING, TREATMENT, PRESSURE),
        *(*ORDERED, *COMPLAINTS, *WARD_DRUGS, *GENDERS, *RACES, *outcomes),
    ]
    found = set()
    while wanted:
        code = wanted.pop()
        found.add(code)
        wanted += table[code][2]
    return [(code, text, parents) for code, text, parents in table.values() if code in found]
