"""`ehr-tokenize`."""

import click

import ehr_tokenize
from ehr_tracking.errors import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ehr_tokenize.__version__, package_name="ehr-tokenize")
def main() -> None:
    """Stub: to be written."""
