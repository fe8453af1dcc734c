"""The world of latent conditions, as a MEDS data set or as JSON."""

from functools import partial
from pathlib import Path

from ehr_tokenize.synthetic import codes, novel
from ehr_tokenize.synthetic.block import BLOCK, draw_block, with_novel_codes
from ehr_tokenize.synthetic.config import SynthConfig
from ehr_tokenize.synthetic.dataset import CodeRow, Recipe, Summary, write_dataset
from ehr_tokenize.synthetic.patients import patients_json
from ehr_tokenize.synthetic.pool import over
from ehr_tokenize.synthetic.records import VOCABULARY
from ehr_tokenize.synthetic.risks import write_risks
from ehr_tokenize.synthetic.rows import Ints, Rows
from ehr_tracking.config import to_dict
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike


def synthesize(
    out: PathLike,
    config: SynthConfig,
    *,
    overwrite: bool = False,
    workers: int = 1,
    risks: bool = False,
) -> Summary:
    """Draw a cohort and write it as MEDS 0.4.

    The generative model is stated in `docs/synthetic.md` and, by part, in `disease`, `course` and
    `records`.

    Args:
        out: The data set's directory.
        config: Size, seed and effects.
        overwrite: Replace a data set that we wrote; never anything else.
        workers: Processes.
        risks: Write `labels/` and `risks/` as well; see `ehr_tokenize.synthetic.risks`.

    Raises:
        UserError: If `out` exists and may not be replaced.
    """
    return write_dataset(
        Path(out), _recipe(config), overwrite=overwrite, workers=workers, risks=risks
    )


def synthesize_json(
    out: PathLike, config: SynthConfig, *, overwrite: bool = False, workers: int = 1
) -> Summary:
    """Draw a cohort and write its diagnoses and medication as one JSON file.

    Args:
        out: The file.
        config: Size, seed and effects; the subjects are those of `synthesize`.
        overwrite: Replace a file that is there.
        workers: Processes.

    Raises:
        UserError: If `out` exists and may not be replaced.
    """
    out = Path(out)
    if out.is_dir() or (out.exists() and not overwrite):
        raise UserError(f"{out} exists; choose another path or pass --overwrite")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial_out = out.with_name(f".{out.name}.partial")
    recipe = _recipe(config)
    events = 0
    try:
        with partial_out.open("w", encoding="utf-8") as f:
            f.write('{"patients": [')
            blocks = [(b,) for b in recipe.blocks]
            write = partial(_block_json, config)
            for k, text in enumerate(over(write, blocks, workers, "subjects")):
                f.write((",\n" if k else "\n") + text)
                events += text.count('"date"')
            f.write("\n]}\n")
        partial_out.replace(out)
    finally:
        partial_out.unlink(missing_ok=True)
    return Summary(out, config.num_patients, events, *recipe.count_codes(), 0)


def _recipe(config: SynthConfig) -> Recipe:
    return Recipe(
        name="ehr-tokenize synthetic cohort",
        num_patients=config.num_patients,
        seed=config.seed,
        settings={key: value for key, value in to_dict(config).items() if key != "risks"},
        codes=_code_rows(config),
        names=VOCABULARY + novel.NOVEL,
        block=BLOCK,
        draw=partial(_draw, config),
        risks=partial(_write_risks, config),
    )


def _draw(config: SynthConfig, number: int) -> tuple[Ints, Rows]:
    block = draw_block(config, number)
    return block.ids, with_novel_codes(block.rows, config, number)


def _write_risks(config: SynthConfig, directory: Path, workers: int) -> None:
    write_risks(directory, config, workers=workers)


def _block_json(config: SynthConfig, number: int) -> str:
    block = draw_block(config, number)
    return patients_json(block, with_novel_codes(block.rows, config, number))


def _code_rows(config: SynthConfig) -> list[CodeRow]:
    rows: list[CodeRow] = [*codes.code_table()]
    if config.novel_prob > 0:
        rows += [(code, None, parents) for code, parents in novel.PARENTS.items()]
    return sorted(rows, key=lambda row: row[0])
