"""The JSON format of the ExMed-BERT guide to MEDS, and back.

`{"patients": [{"patient_id": "P0001", "diagnoses": [{"code": "I10", "date": "2020-02-20"}],
"prescriptions": [...]}]}`, with `birth_date` and `sex` where they are known.
"""

import json
from collections.abc import Iterator
from datetime import date, datetime, time
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from ehr_tokenize.sources.cells import at_day
from ehr_tokenize.sources.config import PatientsJsonConfig
from ehr_tokenize.sources.mapping import CORE, INSIDE, Tally
from ehr_tokenize.sources.subjects import Subjects, read_names
from ehr_tokenize.sources.writer import Done, Source, write_events
from ehr_tracking.arrow.meds import data_files
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike, write_whole

_LISTS = ("diagnoses", "prescriptions")
_KNOWN = {"patient_id", "birth_date", "sex", *_LISTS}
_PATIENTS = 10_000
"""Patients whose events are handed on together."""


def from_patients_json(
    source: PathLike, out: PathLike, config: PatientsJsonConfig, *, overwrite: bool = False
) -> Done:
    """Turn patients in JSON into a MEDS data set. The file is held in memory.

    Args:
        source: The JSON file.
        out: The MEDS directory.
        config: Settings.
        overwrite: Replace a data set that we wrote.

    Raises:
        UserError: If the file is not of this format, saying where, or `out` is taken.
    """
    source, out = Path(source), Path(out)
    reader = _Reader(source, config)
    about = Source(name="patients-json", extra_files=reader.subjects.write)
    written = write_events(
        out, reader.frames(), config=config.write, about=about, read=source, overwrite=overwrite
    )
    unread = ", ".join(sorted(reader.unread))
    notes = [f"not read: {unread}"] if unread else []
    empty = reader.tallies["patients"].rows - written.subjects
    if empty:
        notes.append(f"left out {empty:,} patients without any event: MEDS has no such subjects")
    return Done(reader.tallies, written, notes)


def to_patients_json(
    meds: PathLike, out: PathLike, config: PatientsJsonConfig | None = None
) -> int:
    """Write the diagnoses and prescriptions of a MEDS data set in the JSON format.

    What `from_patients_json` made comes back, but for the order within a list (by date, then code)
    and for entries that repeat another. Other events have no place in the format and stay out.

    Args:
        meds: A MEDS data set.
        out: The JSON file; a file that is there is not replaced.
        config: With which prefixes the codes were, or shall be taken to be, made.

    Returns:
        Patients written.

    Raises:
        UserError: If `out` exists, or `meds` is no MEDS data set.
    """
    meds, out = Path(meds), Path(out)
    config = config or PatientsJsonConfig()
    if out.exists():
        raise UserError(f"{out} exists; choose another path")
    names = read_names(meds)
    patients: dict[int, dict[str, Any]] = {}
    for path in data_files(meds):
        frame = pl.read_parquet(path, columns=["subject_id", "time", "code"], glob=False)
        for subject, at, code in frame.iter_rows():
            patient = patients.setdefault(
                subject, {"patient_id": names.get(subject, str(subject)), **{x: [] for x in _LISTS}}
            )
            _put(patient, at, code, config)
    everyone = sorted(patients.values(), key=lambda p: str(p["patient_id"]))
    write_whole(out, json.dumps({"patients": everyone}, indent=1) + "\n")
    return len(everyone)


def _put(
    patient: dict[str, Any], at: datetime | None, code: str, config: PatientsJsonConfig
) -> None:
    prefixes = {"diagnoses": config.diagnosis, "prescriptions": config.prescription}
    if at is None:
        if code.startswith(config.sex):
            patient["sex"] = code.removeprefix(config.sex)
        return
    day = at.date().isoformat()
    if code == "MEDS_BIRTH":
        patient["birth_date"] = day
    for name, prefix in prefixes.items():
        if code.startswith(prefix):
            patient[name].append({"code": code.removeprefix(prefix), "date": day})


class _Reader:
    """One file, and what is gathered while it is read."""

    def __init__(self, source: Path, config: PatientsJsonConfig) -> None:
        self.path = source
        self.config = config
        self.subjects = Subjects()
        self.tallies = {name: Tally() for name in ("patients", *_LISTS)}
        self.unread: set[str] = set()
        self.patients = iter(_load(source))
        self.seen: set[str] = set()

    def frames(self) -> Iterator[pl.DataFrame]:
        """Events, of some thousand patients at a time."""
        done = 0
        while block := list(islice(self.patients, _PATIENTS)):
            rows = [r for i, patient in enumerate(block) for r in self._rows(done + i, patient)]
            schema = {name: CORE[name] for name in ("subject_id", "time", "code")}
            frame = pl.DataFrame(rows, schema=schema, orient="row")
            yield frame.with_columns(rank=pl.lit(INSIDE, pl.Int8))
            done += len(block)

    def _rows(self, index: int, patient: object) -> Iterator[tuple[int, datetime | None, str]]:
        where = f"{self.path} patients[{index}]"
        if not isinstance(patient, dict):
            raise UserError(f"{where}: not an object")
        name = _text(where, patient, "patient_id")
        if name in self.seen:
            raise UserError(f"{where}: patient_id {name!r} is there twice")
        self.seen.add(name)
        self.unread |= patient.keys() - _KNOWN
        patient = self._present(patient, "patients")
        subject = self.subjects.id(name)
        tally = self.tallies["patients"]
        tally.rows += 1
        if patient.get("birth_date") is not None:
            tally.events += 1
            yield (
                subject,
                datetime.combine(_date(where, patient, "birth_date"), time()),
                "MEDS_BIRTH",
            )
        if patient.get("sex") is not None:
            tally.events += 1
            yield subject, None, self.config.sex + _text(where, patient, "sex")
        yield from self._entries(where, subject, patient)

    def _entries(
        self, where: str, subject: int, patient: dict[str, Any]
    ) -> Iterator[tuple[int, datetime, str]]:
        prefixes = (self.config.diagnosis, self.config.prescription)
        for kind, prefix in zip(_LISTS, prefixes, strict=True):
            entries = patient.get(kind) or []
            if not isinstance(entries, list):
                raise UserError(f"{where}.{kind}: not a list")
            for i, entry in enumerate(entries):
                place = f"{where}.{kind}[{i}]"
                if not isinstance(entry, dict):
                    raise UserError(f"{place}: not an object with code and date")
                self.unread |= {f"{kind}.{key}" for key in entry.keys() - {"code", "date"}}
                known = self._present(entry, kind)
                day = _date(place, known, "date")
                yield subject, at_day(day, self.config.days), prefix + _text(place, known, "code")
            self.tallies[kind].rows += len(entries)
            self.tallies[kind].events += len(entries)

    def _present(self, record: dict[str, Any], table: str) -> dict[str, Any]:
        """The record without the texts that stand for no value, which are counted."""
        gone = {k: v for k, v in record.items() if isinstance(v, str) and v in self.config.missing}
        self.tallies[table].missing.update((k, v) for k, v in gone.items())
        return {k: v for k, v in record.items() if k not in gone}


def _load(path: Path) -> list[object]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        tree = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path}: not JSON: {e}") from None
    patients = tree.get("patients") if isinstance(tree, dict) else None
    if not isinstance(patients, list):
        raise UserError(f'{path}: expected {{"patients": [...]}}')
    return patients


def _text(where: str, record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise UserError(f"{where}: {key} is {value!r}, expected text")
    return str(value).strip()


def _date(where: str, record: dict[str, Any], key: str) -> date:
    value = record.get(key)
    try:
        return datetime.fromisoformat(str(value)).date()
    except ValueError:
        raise UserError(f"{where}: {key} is {value!r}, expected a date like 2020-01-15") from None
