"""`ehr-models`."""

import click

import ehr_models
from ehr_tracking.errors import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ehr_models.__version__, package_name="ehr-models")
def main() -> None:
    """Stub: to be written."""
