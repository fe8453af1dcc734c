"""MIMIC-IV as it is released (2.2 and 3.x, CSV or csv.gz) to MEDS."""

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from ehr_tokenize.sources import mimic_tables as known
from ehr_tokenize.sources.cells import Cells
from ehr_tokenize.sources.config import MimicConfig
from ehr_tokenize.sources.lookup import Lookup
from ehr_tokenize.sources.mapping import CORE, Tally, add_descriptions, columns_of, make
from ehr_tokenize.sources.mimic_codes import Dictionaries, Titles, describe
from ehr_tokenize.sources.release import require_directory, require_tables, unmatched
from ehr_tokenize.sources.tables import Piece, by_name, pieces
from ehr_tokenize.sources.writer import Done, Source, code_rows, write_events
from ehr_tracking.files import PathLike
from ehr_tracking.tree import entries

EXTRAS = {"hadm_id": pl.Int64, "stay_id": pl.Int64, "unit": pl.String}
_DICTIONARIES = (
    "hosp/d_labitems", "icu/d_items", "hosp/d_icd_diagnoses", "hosp/d_icd_procedures", "hosp/d_hcpcs",
)  # fmt: skip


def from_mimic(
    source: PathLike, out: PathLike, config: MimicConfig, *, overwrite: bool = False
) -> Done:
    """Turn the released tables of MIMIC-IV into a MEDS data set.

    Laboratory results are stamped with the time at which they were known unless configured
    otherwise, what is billed for a stay with its discharge. A table that is missing is named in the
    report and gone on without.

    Args:
        source: Holds `hosp/` and `icu/`.
        out: The MEDS directory.
        config: Settings.
        overwrite: Replace a data set that we wrote.

    Raises:
        UserError: If there is no table, a cell cannot be read, or `out` is taken.
    """
    source, out = Path(source), Path(out)
    reader = _Reader(source, config)
    about = Source(name="MIMIC-IV", extras=EXTRAS, describe=reader.describe)
    written = write_events(
        out, reader.frames(), config=config.write, about=about, read=source, overwrite=overwrite
    )
    return Done(reader.tallies, written, reader.notes())


class _Reader:
    """The files of one release, and what is gathered while they are read."""

    def __init__(self, source: Path, config: MimicConfig) -> None:
        require_directory(source)
        self.config = config
        self.files = {
            f"{folder}/{name}": path
            for folder in ("hosp", "icu")
            if (source / folder).is_dir()
            for name, path in by_name(entries(source / folder)).items()
        }
        self.tables = known.tables(config)
        self.names = tuple(t.name for t in (*self.tables, known.PRESCRIPTIONS))
        require_tables(
            source, self.files, sorted(self.names), config.without,
            kind="MIMIC-IV: no hosp/patients.csv or its like",
        )  # fmt: skip
        self.tallies: dict[str, Tally] = {}
        self.dictionaries = Dictionaries()
        self.lookups: dict[str, Lookup] = {}

    def notes(self) -> list[str]:
        """What was missing, and what was there but is not read; a line each."""
        return unmatched(self.files, (*self.names, *_DICTIONARIES), self.config.without)

    def frames(self) -> Iterator[pl.DataFrame]:
        """Events of every table that is there."""
        tables = list(self.tables)
        if "hosp/pharmacy" not in self.files:
            tables.append(known.PRESCRIPTIONS)
        for table in tables:
            if table.name in self.files and table.name not in self.config.without:
                yield from self._events(table)

    def describe(self, codes: list[str]) -> pl.DataFrame:
        """Rows of codes.parquet, from the release's own dictionaries."""
        d = self.dictionaries
        icd = ("icd_version", "icd_code")
        d.labs = self._titles("hosp/d_labitems", ("itemid",), ("label", "fluid"))
        d.loinc = self._titles("hosp/d_labitems", ("itemid",), ("loinc_code",))
        d.items = self._titles("icu/d_items", ("itemid",), ("label",))
        d.diagnoses = self._titles("hosp/d_icd_diagnoses", icd, ("long_title",))
        d.procedures = self._titles("hosp/d_icd_procedures", icd, ("long_title",))
        d.hcpcs = self._titles("hosp/d_hcpcs", ("code",), ("short_description",))
        d.hcpcs |= self._titles("hosp/d_hcpcs", ("code",), ("long_description",))
        return code_rows(describe(codes, d))

    def _events(self, table: known.Table) -> Iterator[pl.DataFrame]:
        tally = self.tallies.setdefault(table.name, Tally())
        columns = [c for c in columns_of(table.events) if c not in table.joins]
        for piece in self._pieces(table.name, ["subject_id", *columns, *table.keys]):
            tally.rows += len(piece.frame)
            cells = Cells(
                piece,
                self.config.days,
                day_columns=table.days,
                missing=self.config.missing,
                blanks=self._as_meds,
                found=tally.missing,
            )
            cells = self._joined(cells, table)
            subject = cells.integer("subject_id")
            for event in table.events:
                yield make(event, cells, subject, tally, EXTRAS)
                add_descriptions(event, cells, self.dictionaries.seen)

    def _joined(self, cells: Cells, table: known.Table) -> Cells:
        """The same piece with its computed columns."""
        made = [_COMPUTED[name](self, cells).alias(name) for name in table.joins]
        piece = Piece(cells.piece.path, cells.piece.row, cells.piece.frame.with_columns(made))
        return cells.on(piece)

    def birth(self, cells: Cells) -> pl.Series:
        """1 January of the year in which the subject was as old as said (91 stands for over 89)."""
        year = cells.integer("anchor_year") - cells.integer("anchor_age")
        return year.to_frame("y").select(pl.datetime("y", 1, 1).cast(CORE["time"])).to_series()

    def death(self, cells: Cells) -> pl.Series:
        """The time of a death in hospital, else the day of death."""
        if "death" not in self.lookups:
            self.lookups["death"] = self._lookup("hosp/admissions", "subject_id", "deathtime")
        known_time = self.lookups["death"].get(cells.integer("subject_id"))
        return known_time.fill_null(cells.time("dod"))

    def discharge(self, cells: Cells) -> pl.Series:
        """The end of the stay that is billed."""
        if "discharge" not in self.lookups:
            self.lookups["discharge"] = self._lookup("hosp/admissions", "hadm_id", "dischtime")
        return self.lookups["discharge"].get(cells.integer("hadm_id"))

    def ndc(self, cells: Cells) -> pl.Series:
        """The product that was dispensed as the main one of an order, as text; null for none."""
        if "ndc" in cells.piece.frame.columns:
            return self._number(_product(cells))
        if "ndc" not in self.lookups:
            frames = [pl.DataFrame(schema={"key": pl.Int64, "value": pl.Categorical})]
            for piece in self._pieces("hosp/prescriptions", ["pharmacy_id", "drug_type", "ndc"]):
                one = Cells(piece, missing=self.config.missing)
                frame = pl.DataFrame({"key": one.integer("pharmacy_id"), "value": _product(one)})
                main = frame.filter(one.text("drug_type") == "MAIN").drop_nulls()
                frames.append(main.with_columns(pl.col("value").cast(pl.Categorical)))
            self.lookups["ndc"] = Lookup.build(pl.concat(frames))
        return self._number(self.lookups["ndc"].get(cells.integer("pharmacy_id")).cast(pl.String))

    def drg(self, cells: Cells) -> pl.Series:
        """The code of a diagnosis-related group."""
        return self._number(cells.text("drg_code"))

    def _number(self, code: pl.Series) -> pl.Series:
        """A code of digits, without its leading zeros where MIMIC_IV_MEDS is followed."""
        return code.str.replace(r"^0+(\d)", "${1}") if self._as_meds else code

    @property
    def _as_meds(self) -> bool:
        return self.config.codes == "mimic_iv_meds"

    def _lookup(self, name: str, key: str, time: str) -> Lookup:
        """Key -> earliest time."""
        frames = [pl.DataFrame(schema={"key": pl.Int64, "value": CORE["time"]})]
        for piece in self._pieces(name, [key, time]):
            cells = Cells(piece, self.config.days, missing=self.config.missing)
            frames.append(pl.DataFrame({"key": cells.integer(key), "value": cells.time(time)}))
        return Lookup.build(pl.concat(frames).drop_nulls().sort("key", "value"))

    def _titles(self, name: str, keys: tuple[str, ...], texts: tuple[str, ...]) -> Titles:
        titles: Titles = {}
        for piece in self._pieces(name, keys, texts):
            cells = Cells(piece)
            columns = [cells.text(c).to_list() for c in (*keys, *texts)]
            for row in zip(*columns, strict=True):
                words = [w for w in row[len(keys) :] if w]
                if words and None not in row[: len(keys)]:
                    titles.setdefault(row[: len(keys)], ", ".join(words))
        return titles

    def _pieces(
        self, name: str, columns: list[str] | tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> Iterator[Piece]:
        if name in self.files:
            yield from pieces(self.files[name], columns, optional)


def _product(cells: Cells) -> pl.Series:
    """NDC of 11 digits; MIMIC writes 0 for none."""
    return cells.text("ndc").replace("0", None)


_COMPUTED: dict[str, Callable[[_Reader, Cells], pl.Series]] = {
    known.BIRTH: _Reader.birth,
    known.DEATH: _Reader.death,
    known.DISCHARGE: _Reader.discharge,
    known.NDC: _Reader.ndc,
    known.DRG: _Reader.drg,
}
