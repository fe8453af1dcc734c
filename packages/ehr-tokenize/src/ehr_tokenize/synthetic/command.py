"""`ehr-tokenize synth`."""

from pathlib import Path

import click

from ehr_tracking.options import PATH, config_options, overwrite_option


@click.command()
@click.option("--num-patients", type=click.IntRange(min=1), help="Subjects.  [default: 1000]")
@click.option("--seed", type=click.IntRange(min=0), help="Of everything random.  [default: 0]")
@click.option(
    "--novel-prob",
    type=click.FloatRange(0, 1),
    help="Share of diagnoses and medication in codes that no table knows.  [default: 0]",
)
@click.option(
    "--format", "kind", type=click.Choice(["meds", "json"]), default="meds", show_default=True,
    help="A MEDS directory, or one JSON file of diagnoses and prescriptions.",
)  # fmt: skip
@click.option("--out", type=PATH, required=True, help="Directory or file.")
@click.option(
    "--risks/--no-risks",
    help="Write labels/ and, beside them, the true and the best achievable risks/ (slow).",
)
@config_options("SynthConfig", "num_patients=500")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes."
)
@overwrite_option("a data set of ehr-tokenize")
def synth(
    num_patients: int | None,
    seed: int | None,
    novel_prob: float | None,
    kind: str,
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    **how: bool | int,
) -> None:
    """Write a synthetic cohort as a MEDS data set.

    Diagnoses, medication, laboratory values, visits and death depend on latent chronic conditions
    in a stated way, so that history predicts outcomes. The same options give the same bytes.

    Example: ehr-tokenize synth --num-patients 2000 --seed 0 --out demo/meds
    """
    from ehr_tokenize.synthetic.cohort import synthesize, synthesize_json
    from ehr_tokenize.synthetic.config import SynthConfig
    from ehr_tracking.config import load_config

    named = {"num_patients": num_patients, "seed": seed, "novel_prob": novel_prob}
    given = [f"{key}={value}" for key, value in named.items() if value is not None]
    settings = load_config(SynthConfig, config_file, [*overrides, *given])
    overwrite, workers = bool(how["overwrite"]), int(how["workers"])
    if kind == "json":
        if how["risks"]:
            raise click.UsageError("--risks needs --format meds")
        done = synthesize_json(out, settings, overwrite=overwrite, workers=workers)
        click.echo(f"{out}: {done.subjects:,} subjects, {done.events:,} events")
        return
    done = synthesize(out, settings, overwrite=overwrite, workers=workers, risks=bool(how["risks"]))
    novel = f", {done.novel:,} novel ones with parents alone" if done.novel else ""
    click.echo(
        f"{done.path}: {done.subjects:,} subjects, {done.events:,} events, "
        f"{done.deaths:,} deaths, {done.described:,} codes with descriptions{novel}"
    )
