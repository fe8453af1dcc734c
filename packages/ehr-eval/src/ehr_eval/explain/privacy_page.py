"""The page of `privacy/1`."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ehr_tracking.report import html_page, table

_ABOUT = {
    "membership": (
        "Can it be told who the model was trained on?",
        "Scores of each subject from one pass: loss, the mean log-probability of its tokens, and min_k, that of the "
        "least probable share of them (Min-K%, Shi et al., 2024). The value is the AUROC of train against held-out subjects: "
        ".5 tells nothing, 1 tells everybody. Much above .5 (the lower bound too), the model has learnt subjects by heart: "
        "train it for less long, on more subjects, or with more dropout, and keep it where the data are.",
    ),
    "nearest": (
        "Are made records copies of training records?",
        "The distance of a made record to the closest real one is the share of its codes that this lacks. As many train as "
        "held-out subjects are compared: a share of made records nearer to train much above .5 says that they copy.",
    ),
    "reconstruction": (
        "Does the model tell how training subjects went on?",
        "Of each future the share of its codes that come in what truly followed, averaged over the futures of a subject. The "
        "value is the AUROC of train against held-out subjects: much above .5, the model knows how train subjects go on.",
    ),
    "memorised": (
        "Do rare sequences of training subjects come again?",
        "Sequences of codes that hardly a subject has, and none of the other kind: the share of them that come in made "
        "records. Of train subjects it should be no higher than of held-out ones.",
    ),
}

_NEEDS = {
    "membership": "--checkpoint and --tokens",
    "reconstruction": "futures of train and of held-out subjects (ehr-eval generate) as --generated, and --meds",
}


def write_privacy_page(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write the page.

    Args:
        path: Where.
        rows: Of `privacy.parquet`.
    """
    body = [
        "<p>What a model, or records that it made, give away of those it was trained on. A value at chance is no proof "
        "that nothing is given away: other attacks may be stronger.</p>"
    ]
    for test, (asks, about) in _ABOUT.items():
        mine = [
            {n: v for n, v in row.items() if n != "test"} for row in rows if row["test"] == test
        ]
        body.append(f"<h2>{escape(asks)}</h2>")
        if mine:
            body += [f"<p>{escape(about)}</p>", table(mine)]
        else:
            needs = (
                "--checkpoint and --tokens" if test == "membership" else "--generated and --meds"
            )
            body.append(f"<p>Not tested: needs {needs}.</p>")
    path.write_text(html_page("Privacy", body), encoding="utf-8")
