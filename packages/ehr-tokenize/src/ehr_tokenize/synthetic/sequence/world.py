"""The world in which order and timing alone carry the risk, as a MEDS data set."""

from functools import partial
from pathlib import Path

from ehr_tokenize.synthetic.dataset import Recipe, Summary, write_dataset
from ehr_tokenize.synthetic.labelled import Tables, labelled, write_labelled
from ehr_tokenize.synthetic.pool import over
from ehr_tokenize.synthetic.rows import Ints, Rows
from ehr_tokenize.synthetic.sequence.block import BLOCK, CODES, NAMES, draw_block
from ehr_tokenize.synthetic.sequence.config import SequenceConfig
from ehr_tracking.config import to_dict
from ehr_tracking.files import PathLike


def synthesize(
    out: PathLike,
    config: SequenceConfig,
    *,
    overwrite: bool = False,
    workers: int = 1,
    risks: bool = False,
) -> Summary:
    """Draw records and write them as MEDS 0.4.

    The generative model is stated in `docs/synthetic.md` and, by part, in `course` and `rules`.

    Args:
        out: The data set's directory.
        config: Size, seed and effects.
        overwrite: Replace a data set that we wrote; never anything else.
        workers: Processes.
        risks: Write `labels/` and `risks/` of all splits as well. Nothing is hidden, so the best
            risk is the true one.

    Raises:
        UserError: If `out` exists and may not be replaced.
    """
    recipe = Recipe(
        name="ehr-tokenize synthetic sequences",
        num_patients=config.num_patients,
        seed=config.seed,
        settings=to_dict(config),
        codes=CODES,
        names=NAMES,
        block=BLOCK,
        draw=partial(_draw, config),
        risks=partial(_write_risks, config),
    )
    return write_dataset(Path(out), recipe, overwrite=overwrite, workers=workers, risks=risks)


def _draw(config: SequenceConfig, number: int) -> tuple[Ints, Rows]:
    block = draw_block(config, number)
    return block.ids, block.rows


def _write_risks(config: SequenceConfig, directory: Path, workers: int) -> None:
    blocks = [(b,) for b in range(-(-config.num_patients // BLOCK))]
    write_labelled(directory, over(partial(_block_risks, config), blocks, workers, "risks"))


def _block_risks(config: SequenceConfig, number: int) -> Tables:
    block = draw_block(config, number)
    ids = block.ids[block.subject]
    return {
        task: (
            labelled(ids, block.end, block.label[task], {}),
            labelled(ids, block.end, block.label[task], {"true_risk": r, "best_risk": r}),
        )
        for task, r in block.risk.items()
    }
