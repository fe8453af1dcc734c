"""`ehr-track`."""

import click

import ehr_tracking
from ehr_tracking.errors import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ehr_tracking.__version__, package_name="ehr-tracking")
def main() -> None:
    """Stub: to be written."""
