"""A whole record as texts within the limit, each with the demographics in front."""

from ehr_tokenize.narrative.config import NarrateConfig
from ehr_tokenize.narrative.text import Narrative, Record, tell


def narrate_pieces(record: Record, config: NarrateConfig) -> list[Narrative]:
    """Tell all of a subject.

    The last piece is the narrative at the end of the record, the one before it that at the last event
    which it leaves out, and so on: each is what a label at that time would get, so that a model later
    meets texts of the kind that it was trained on. Together they tell each event once. An event that
    alone exceeds the limit is a piece of its own.

    Args:
        record: All of the subject.
        config: How.

    Returns:
        The oldest first; none where nothing is known at all.

    Examples:
        >>> import numpy as np
        >>> from ehr_tracking.arrow.parquet import DAY_US
        >>> record = Record(
        ...     birth=0,
        ...     statics=["female"],
        ...     demographics=[],
        ...     time=np.array([400, 401, 800]) * DAY_US,
        ...     text=["Asthma", "Cough", "Fever"],
        ... )
        >>> [p.text for p in narrate_pieces(record, NarrateConfig(max_words=6))]
        ['age 1 year, female, Asthma', 'age 2 years, female, Cough, Fever']
    """
    known = [*(time for time, _, _ in record.demographics[-1:]), *record.time[-1:].tolist()]
    if record.birth is not None:
        known.append(record.birth)
    pieces = [tell(record, len(record.text), max(known, default=0), config, whole=True)]
    while pieces[-1].truncated:
        stop = pieces[-1].truncated
        pieces.append(tell(record, stop, int(record.time[stop - 1]), config, whole=True))
    return [p for p in reversed(pieces) if p.text]
