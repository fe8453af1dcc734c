"""`ehr-train`."""

import click

import ehr_train
from ehr_tracking.errors import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ehr_train.__version__, package_name="ehr-train")
def main() -> None:
    """Stub: to be written."""
