"""`ehr-tokenize synth`."""

from pathlib import Path

import click


@click.command()
@click.option("--num-patients", type=click.IntRange(min=1), help="Subjects.  [default: 1000]")
@click.option("--seed", type=click.IntRange(min=0), help="Of everything random.  [default: 0]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="MEDS directory.")
@click.option("-c", "--config", type=click.Path(path_type=Path), help="YAML file of SynthConfig.")
@click.option("-s", "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting.")
@click.option("--overwrite", is_flag=True, help="Replace a synthetic cohort that is there.")
def synth(
    num_patients: int | None,
    seed: int | None,
    out: Path,
    config: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Write a synthetic cohort as a MEDS data set.

    Diagnoses, medication, laboratory values, visits and death depend on latent chronic conditions
    in a stated way, so that history predicts outcomes. The same options give the same bytes.

    Example: ehr-tokenize synth --num-patients 2000 --seed 0 --out demo/meds
    """
    from ehr_tokenize.synthetic.cohort import synthesize
    from ehr_tokenize.synthetic.config import SynthConfig
    from ehr_tracking.config import load_config

    named = {"num_patients": num_patients, "seed": seed}
    given = [f"{key}={value}" for key, value in named.items() if value is not None]
    settings = load_config(SynthConfig, config, [*overrides, *given])
    done = synthesize(out, settings, overwrite=overwrite)
    click.echo(
        f"{done.path}: {done.subjects:,} subjects, {done.events:,} events, "
        f"{done.deaths:,} deaths, {done.codes:,} codes with descriptions"
    )
