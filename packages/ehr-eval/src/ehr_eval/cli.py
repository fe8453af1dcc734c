"""`ehr-eval`: labels, features and evaluation; each command stands in its room.

Modules that need more than click are imported inside the commands: `--help` should be instant.
"""

import click

import ehr_eval
from ehr_eval.audit.command import audit
from ehr_eval.compare.command import compare
from ehr_eval.counts.command import counts
from ehr_eval.explain.command import explain
from ehr_eval.explain.privacy_command import privacy
from ehr_eval.features.command import features, join
from ehr_eval.foreign.command import adopt
from ehr_eval.generate.command import generate
from ehr_eval.generate.zeroshot_command import aces, curve, zeroshot
from ehr_eval.judgement.command import judge
from ehr_eval.matching.command import match
from ehr_eval.outcomes.command import outcomes
from ehr_eval.perplexity.command import perplexity
from ehr_eval.predict_command import predict
from ehr_eval.protocol.command import ehrshot
from ehr_eval.query.command import query
from ehr_eval.scaling.command import scaling
from ehr_eval.strata.command import strata
from ehr_eval.survival.command import survival
from ehr_eval.tasks.command import labels, tasks
from ehr_tracking.errors import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ehr_eval.__version__, package_name="ehr-eval")
def main() -> None:
    """Evaluate health-record models beside honest baselines: labels, features, few-shot scores.

    Example: ehr-eval ehrshot --labels demo/labels --features counts=demo/features/counts --out demo/results
    """


for command in (
    *(aces, adopt, audit, compare, counts, curve, ehrshot, explain, features, generate, join),
    *(
        judge,
        labels,
        match,
        outcomes,
        perplexity,
        predict,
        privacy,
        query,
        scaling,
        strata,
        survival,
    ),
    *(tasks, zeroshot),
):
    main.add_command(command)
