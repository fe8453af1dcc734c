# ruff: noqa: DTZ001 -- MEDS times have no zone
"""A tokenizer and a model from one directory, a list of events, logits, a representation: ours and theirs."""

import json
import re
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import ehr_models.cli
import ehr_tokenize.cli
from ehr_models.checkpoint import save_checkpoint
from ehr_models.data.tokens import open_tokens
from ehr_models.kinds import KINDS
from ehr_models.registry import build
from ehr_tokenize.tokenizer.encode import Event
from ehr_tokenize.tokenizer.tokenizer import Tokenizer
from ehr_tracking.contracts import CHECKPOINT, SPECIALS
from ehr_tracking.manifest import new_artifact, source

ROOT = Path(__file__).parents[1]
MAX = 1.7976931348623157e308
ENTRIES = [
    ("Gender/F", "code", {}),
    ("SNOMED/3950001", "code", {}),
    ("LOINC/2236-8", "numerical_range", {"unit": "None", "range_start": -MAX, "range_end": 4.0}),
    ("LOINC/EMPTY", "numerical_range", {"unit": "None", "range_start": 1.0, "range_end": 1.0}),
    ("LOINC/2236-8", "numerical_range", {"unit": "None", "range_start": 4.0, "range_end": MAX}),
    ("Ethnicity/Hispanic", "code", {}),
]
PATIENT = [
    Event("SNOMED/3950001"),
    Event("Gender/F"),
    Event("Ethnicity/Hispanic"),
    Event("NOT/KNOWN"),
    Event("LOINC/2236-8", value=-3.0),
    Event("LOINC/2236-8", value=26.3),
]
IN_THEIRS = [5, 0, 8, 7, 12, 9, 11, 1]
"""The same by the ids of hf_ehr: [CLS] [BOS], events that are known, [EOS]."""


def run(main, *words):
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    root = tmp_path_factory.mktemp("exchange")
    run(ehr_tokenize.cli.main, "synth", "--num-patients", 40, "--out", root / "meds")
    run(
        ehr_tokenize.cli.main,
        "--meds",
        root / "meds",
        "--out",
        root / "tokens",
        "-s",
        "scheme.kind=visits",
    )
    return root / "tokens"


@pytest.mark.parametrize(
    ("kind", "head"),
    [("gpt2", "token"), ("behrt", "token"), ("chrono", "token"), ("behrt", "pooled")],
)
def test_what_the_card_of_an_export_shows_runs_as_it_stands(
    kind, head, tokens, tmp_path, monkeypatch
):
    size = next(iter(KINDS[kind].sizes))
    model = build(KINDS[kind].config(size=size, layers=1), open_tokens(tokens), head)
    with new_artifact(tmp_path / "checkpoint", CHECKPOINT) as directory:
        inputs = {"tokens": source(tokens)}
        save_checkpoint(
            directory,
            model,
            tokens,
            metrics={},
            producer="test 0",
            config={},
            seed=0,
            inputs=inputs,
        )
    run(
        ehr_models.cli.main,
        "export",
        "--checkpoint",
        tmp_path / "checkpoint",
        "--out",
        tmp_path / "export",
    )
    [shown] = re.findall(
        r"```python\n(.*?)```", (tmp_path / "export" / "README.md").read_text(), re.DOTALL
    )
    monkeypatch.chdir(tmp_path / "export")
    names = {}
    exec(shown, names)  # what the card tells people to do
    wanted = (model.config.num_labels,) if head == "pooled" else (2, model.config.vocab_size)
    assert names["logits"].shape[1:] == wanted
    assert names["inputs"]["token"].shape == (1, 2)


@pytest.fixture
def taken(tmp_path):
    """A model of hf_ehr, made here in its form, and the same as a checkpoint of ours."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=7 + len(ENTRIES), n_positions=16, n_embd=16, n_layer=2, n_head=2)
    theirs = GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path / "hub")
    entries = [
        {"code": c, "type": t, "tokenization": how, "description": None, "stats": []}
        for c, t, how in ENTRIES
    ]
    names = tmp_path / "hub" / "tokenizer_config.json"
    names.write_text(json.dumps({"timestamp": "", "metadata": {}, "tokens": entries}))
    run(ehr_tokenize.cli.main, "dictionary", names, "--out", tmp_path / "words")
    said = run(ehr_models.cli.main, "import", tmp_path / "hub", "--vocabulary", tmp_path / "words",
               "--out", tmp_path / "ours")  # fmt: skip
    assert "1 rows of its vocabulary are no token of ours" in said  # the range without width
    return theirs, tmp_path / "ours"


def test_events_get_the_logits_that_the_original_gives_them(taken):
    theirs, directory = taken
    tokenizer = Tokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    batch = tokenizer([PATIENT]).padded(end=True, unknown=False)
    said = [tokenizer.tokens[i].text for i in batch["token"][0]]
    assert said == ["[CLS]", "[BOS]", "SNOMED/3950001", "Gender/F", "Ethnicity/Hispanic",
                    "LOINC/2236-8//Q1", "LOINC/2236-8//Q2", "[EOS]"]  # fmt: skip
    with torch.no_grad():
        logits = model(torch.from_numpy(batch["token"])).logits
        original = theirs(torch.tensor([IN_THEIRS])).logits
    rows = [4, 2, 5, 3, 6, 0, 1, *(7 + t.origin for t in tokenizer.tokens[len(SPECIALS) :])]
    torch.testing.assert_close(logits, original[..., rows])
    representation = logits[:, -1, :]
    torch.testing.assert_close(representation, original[:, -1, rows])


def test_what_the_documentation_shows_of_a_model_of_hf_ehr_runs_as_it_stands(
    taken, tmp_path, monkeypatch
):
    [shown] = re.findall(r"```py\n(.*?)```", (ROOT / "docs/exchange.md").read_text(), re.DOTALL)
    taken[1].rename(tmp_path / "gpt-base-512")
    (tmp_path / "checkpoints").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(shown, names)
    assert names["batch"]["token"].tolist()[0][:2] == [2, 5]
    assert names["representation"].shape == (1, taken[0].config.vocab_size - 1)


def test_a_data_set_is_tokenised_with_an_imported_vocabulary(taken, tmp_path):
    at = datetime(2020, 1, 1)
    rows = [
        (1, None, "Gender/F", None),
        (1, at, "LOINC/2236-8", -3.0),
        (1, at, "LOINC/2236-8", 4.0),
    ]
    meds = tmp_path / "meds"
    (meds / "data").mkdir(parents=True)
    schema = {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "code": pl.String,
        "numeric_value": pl.Float32,
    }
    pl.DataFrame(rows, schema, orient="row").write_parquet(meds / "data" / "0.parquet")
    run(
        ehr_tokenize.cli.main, "--meds", meds, "--out", tmp_path / "tokens", "--tokenizer", taken[1]
    )
    [split] = {p.parent for p in (tmp_path / "tokens").glob("*/*.parquet")}
    [row] = pq.read_table(split).to_pylist()
    texts = [Tokenizer.from_pretrained(taken[1]).tokens[i].text for i in row["token"]]
    assert texts == ["[CLS]", "[BOS]", "Gender/F", "LOINC/2236-8//Q1", "LOINC/2236-8//Q2"]
    assert row["time"] == [None, None, None, at, at]
    assert row["age"][:2] == [0, 0]


def test_events_of_ehr_fm_are_the_tokens_that_their_codes_name(tmp_path):
    names = ["MEDS_BIRTH", "LAB//50912", "Q3"]
    config = GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    state = {
        k: v for k, v in GPT2LMHeadModel(config).state_dict().items() if not k.endswith(".bias")
    }
    state |= {k: v.T.contiguous() for k, v in state.items() if re.search(r"\.c_\w+\.weight$", k)}
    settings = {
        "n_positions": 16,
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "activation_function": "gelu",
    }
    torch.save({"model": state, "model_configs": settings, "vocab_stoi": {t: i for i, t in enumerate(names)}},
               tmp_path / "best_model.pt")  # fmt: skip
    run(ehr_models.cli.main, "import", tmp_path / "best_model.pt", "--out", tmp_path / "ours")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "ours")
    batch = tokenizer(
        [
            [
                Event("MEDS_BIRTH", time=datetime(1970, 1, 1)),
                Event("LAB//50912", time=datetime(2020, 1, 1)),
            ]
        ]
    )
    assert batch.strings == [["[BOS]", "MEDS_BIRTH", "LAB//50912"]]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", trust_remote_code=True)
    ids = torch.tensor(batch.ids)[:, 1:]
    assert model(ids).logits.shape == (1, 2, len(SPECIALS) + len(names))
    assert ids.tolist() == [[7, 8]]
