"""`ehr-tokenize synth`."""

from pathlib import Path

import click

from ehr_tokenize.synthetic.worlds import WORLDS
from ehr_tracking.options import PATH, config_options, overwrite_option


@click.command()
@click.option(
    "--world",
    type=click.Choice([*WORLDS]),
    default="cohort",
    show_default=True,
    help=f"What carries the risk: {'; '.join(f'{k}: {v.about}' for k, v in WORLDS.items())}.",
)
@click.option("--num-patients", type=click.IntRange(min=1), help="Subjects.  [default: 1000]")
@click.option("--seed", type=click.IntRange(min=0), help="Of everything random.  [default: 0]")
@click.option(
    "--novel-prob",
    type=click.FloatRange(0, 1),
    help="Share of diagnoses and medication in codes that no table knows (cohort only).  [default: 0]",
)
@click.option(
    "--format", "kind", type=click.Choice(["meds", "json"]), default="meds", show_default=True,
    help="A MEDS directory, or one JSON file of diagnoses and prescriptions (cohort only).",
)  # fmt: skip
@click.option("--out", type=PATH, required=True, help="Directory or file.")
@click.option(
    "--risks/--no-risks",
    help="Write labels/ and, beside them, the true and the best achievable risks/ (slow for cohort).",
)
@config_options("SynthConfig or SequenceConfig", "num_patients=500")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes."
)
@overwrite_option("a data set of ehr-tokenize")
def synth(
    world: str,
    num_patients: int | None,
    seed: int | None,
    novel_prob: float | None,
    kind: str,
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    **how: bool | int,
) -> None:
    """Write a synthetic data set as MEDS, with a known risk behind each outcome.

    In the world `cohort` diagnoses, medication, laboratory values, visits and death depend on latent
    chronic conditions; in `sequence` outcomes depend on what came before what, how long ago, how fast a
    value moves and what was given after what. docs/synthetic.md states both. The same options give
    the same bytes.

    Example: ehr-tokenize synth --num-patients 2000 --seed 0 --out demo/meds
    """
    from ehr_tracking.config import load_config

    chosen = WORLDS[world]
    if chosen.json is None and (kind == "json" or novel_prob is not None):
        given = "--format json" if kind == "json" else "--novel-prob"
        raise click.UsageError(f"{given} is not for --world {world}")
    named = {"num_patients": num_patients, "seed": seed, "novel_prob": novel_prob}
    given_settings = [f"{key}={value}" for key, value in named.items() if value is not None]
    settings = load_config(chosen.config_class(), config_file, [*overrides, *given_settings])
    more = {"overwrite": bool(how["overwrite"]), "workers": int(how["workers"])}
    if kind == "json":
        if how["risks"]:
            raise click.UsageError("--risks needs --format meds")
        done = chosen.writer("json")(out, settings, **more)
        click.echo(f"{out}: {done.subjects:,} subjects, {done.events:,} events")
        return
    done = chosen.writer("meds")(out, settings, risks=bool(how["risks"]), **more)
    novel = f", {done.novel:,} novel ones with parents alone" if done.novel else ""
    click.echo(
        f"{done.path}: {done.subjects:,} subjects, {done.events:,} events, "
        f"{done.deaths:,} deaths, {done.described:,} codes with descriptions{novel}"
    )
