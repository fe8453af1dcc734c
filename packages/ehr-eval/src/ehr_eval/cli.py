"""`ehr-eval`."""

import click

import ehr_eval
from ehr_tracking.errors import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ehr_eval.__version__, package_name="ehr-eval")
def main() -> None:
    """Stub: to be written."""
