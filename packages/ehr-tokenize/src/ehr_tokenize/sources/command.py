"""`ehr-tokenize from`: other forms of health records to MEDS."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ehr_tracking.errors import Group
from ehr_tracking.options import PATH, config_options, overwrite_option


@click.group("from", cls=Group)
def from_() -> None:
    """Turn another form of health records into a MEDS data set.

    Example: ehr-tokenize from mimic mimic-iv-demo-2.2 --out demo/mimic
    """


def _command(
    name: str, schema: str, example: str
) -> Callable[[Callable[..., None]], click.Command]:
    """The arguments and options that all sources share."""

    def decorate(function: Callable[..., None]) -> click.Command:
        for option in reversed(
            (
                click.argument("source", type=PATH),
                click.option("--out", type=PATH, required=True, help="MEDS directory to write."),
                config_options(schema, example),
                overwrite_option("a data set of ehr-tokenize"),
            )
        ):  # fmt: skip
            function = option(function)
        return from_.command(name)(function)

    return decorate


@_command("mimic", "MimicConfig", "labs.time=draw")
def mimic(
    source: Path, out: Path, config_file: Path | None, overrides: tuple[str, ...], overwrite: bool
) -> None:
    """Read MIMIC-IV as released: a directory with hosp/ and icu/, CSV or csv.gz.

    A table that is missing is named and gone on without. Laboratory results are stamped with the
    time at which they were known; -s labs.time=draw takes that of the specimen.

    Example: ehr-tokenize from mimic mimic-iv-demo-2.2 --out demo/mimic
    """
    from ehr_tokenize.sources.config import MimicConfig
    from ehr_tokenize.sources.mimic import from_mimic

    _run(from_mimic, MimicConfig, source, out, config_file, overrides, overwrite)


@_command("omop", "OmopConfig", "concept=source")
def omop(
    source: Path, out: Path, config_file: Path | None, overrides: tuple[str, ...], overwrite: bool
) -> None:
    """Read an OMOP CDM 5.3 or 5.4: a directory with CSV or Parquet files, or folders of their parts.

    Concepts become vocabulary/code; letter case of files and columns does not matter.

    Example: ehr-tokenize from omop my-cdm --out demo/omop
    """
    from ehr_tokenize.sources.config import OmopConfig
    from ehr_tokenize.sources.omop import from_omop

    _run(from_omop, OmopConfig, source, out, config_file, overrides, overwrite)


@_command("events", "EventsConfig", "without_time=drop")
def events(
    source: Path, out: Path, config_file: Path | None, overrides: tuple[str, ...], overwrite: bool
) -> None:
    """Read a flat table of events: CSV, TSV, JSON or Parquet, or a folder of its parts.

    The settings say which column holds what; configs/sources/events.yaml explains them.

    Example: ehr-tokenize from events labs.csv --out labs -c configs/sources/events.yaml
    """
    from ehr_tokenize.sources.config import EventsConfig
    from ehr_tokenize.sources.events import from_events

    _run(from_events, EventsConfig, source, out, config_file, overrides, overwrite)


@_command("patients-json", "PatientsJsonConfig", "days=end")
def patients_json(
    source: Path, out: Path, config_file: Path | None, overrides: tuple[str, ...], overwrite: bool
) -> None:
    """Read patients with diagnoses and prescriptions from one JSON file.

    Example: ehr-tokenize from patients-json synthetic_patients.json --out demo/patients
    """
    from ehr_tokenize.sources.config import PatientsJsonConfig
    from ehr_tokenize.sources.patients_json import from_patients_json

    _run(from_patients_json, PatientsJsonConfig, source, out, config_file, overrides, overwrite)


def _run(
    read: Callable[..., Any], settings: type, source: Path, out: Path, config_file: Path | None,
    overrides: tuple[str, ...], overwrite: bool,
) -> None:  # fmt: skip
    from ehr_tracking.config import load_config

    done = read(source, out, load_config(settings, config_file, overrides), overwrite=overwrite)
    click.echo("\n".join(done.lines()))
