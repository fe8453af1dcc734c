"""Models whose codes start from vectors: their rows, their checkpoints, and the command."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from ehr_models.checkpoint import load_checkpoint
from ehr_models.cli import main
from ehr_models.codes.command import init
from ehr_models.codes.config import CodesConfig
from ehr_models.codes.freeze import code_rows, freeze_codes
from ehr_models.codes.resize import resize
from ehr_models.heads.config import PooledConfig
from ehr_models.heads.pooled import build_classifier
from ehr_models.kinds.behrt import BehrtModelConfig
from ehr_models.kinds.bert import BertModelConfig
from ehr_models.registry import build
from ehr_tracking.contracts import SPECIALS
from ehr_tracking.errors import UserError
from ehr_tracking.manifest import load_manifest, verify

from .clinvec import vector, words, write_clinvec, write_tokens
from .conftest import TINY

CODES = (
    "ICD10CM/E11.6",
    "ICD10CM/E11.65",
    "ATC/N02BE01",
    "PHECODE//250.0",
    "CPT4/99214",
    "GENDER//F",
)
BIN = {"token": "ATC/N02BE01//Q2", "kind": "value", "code": "ATC/N02BE01", "bin": 2}
VOCAB = words(*CODES, BIN)
E116, E1165, DRUG, PHECODE, RANDOM, SEX, QUANTILE = range(len(SPECIALS), len(VOCAB))
TRUNCATE = CodesConfig(resize="truncate", noise=0, seed=5)


@pytest.fixture(scope="module")
def clinvec(tmp_path_factory):
    return write_clinvec(tmp_path_factory.mktemp("clinvec") / "ClinVec")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("vocabulary") / "tokens", VOCAB)


def fresh(config, seed=5):
    torch.manual_seed(seed)
    return build(config, len(VOCAB))


def test_rows_survive_and_all_else_is_as_without_them(kind_name, clinvec, tokens, tmp_path):
    config = TINY[kind_name]
    done = init(tokens, tmp_path / "m", config, TRUNCATE, codes=[str(clinvec)])
    model, without = load_checkpoint(tmp_path / "m").model, fresh(config)
    rows, before = code_rows(model).detach().numpy(), code_rows(without).detach().numpy()
    width = rows.shape[1]
    laid = {
        E116: vector("icd10cm", "E11.6"),
        E1165: vector("icd10cm", "E11.6"),  # its parent
        DRUG: vector("atc", "N02BE01"),
        PHECODE: vector("phecode", "250.0"),
        QUANTILE: vector("atc", "N02BE01"),
    }
    expected = np.stack([resize(v[None], width, "truncate")[0] for v in laid.values()])
    expected *= before[len(SPECIALS) : len(VOCAB)].std() / expected.std()
    assert np.allclose(rows[list(laid)], expected, rtol=1e-5)
    others = [i for i in range(len(rows)) if i not in laid]
    assert np.array_equal(rows[others], before[others])
    for (name, ours), theirs in zip(model.named_parameters(), without.parameters(), strict=True):
        if ours.shape != rows.shape:
            assert torch.equal(ours, theirs), name
    if getattr(model.config, "tie_word_embeddings", False):
        assert model.get_output_embeddings().weight is code_rows(model)
    assert [f.how for f in done.found] == [
        "exact",
        "parent",
        *["exact"] * 2,
        *["random"] * 2,
        "exact",
    ]


def test_noise_is_small_seeded_and_only_where_a_vector_is_not_the_tokens_own(
    clinvec, tokens, tmp_path
):
    def rows(name, **changes):
        config = CodesConfig(resize="truncate", **changes)
        done = init(tokens, tmp_path / name, TINY["behrt"], config, codes=[str(clinvec)])
        return code_rows(done.model).detach()

    still, noisy, again = rows("0", noise=0), rows("1"), rows("2")
    assert torch.equal(noisy, again)
    moved = (noisy != still).any(1).nonzero()[:, 0].tolist()
    assert moved == [E1165, QUANTILE]
    share = (noisy - still)[moved].std() / still[len(SPECIALS) : len(VOCAB)].std()
    assert 0.05 < share < 0.2
    other = rows("3", seed=1)
    assert not torch.equal(other[RANDOM], noisy[RANDOM])
    assert not torch.equal(other[E1165], noisy[E1165])


def test_a_learned_projection_is_a_layer_that_learns(clinvec, tokens, tmp_path):
    config = BehrtModelConfig(size="tiny", layers=1)
    how = CodesConfig(resize="learned_projection", noise=0)
    done = init(tokens, tmp_path / "m", config, how, codes=[str(clinvec)])
    assert (done.config.embedding, done.method) == (128, "learned_projection")
    model = load_checkpoint(tmp_path / "m").model.train()
    rows = code_rows(model).detach()
    scale = rows[DRUG] / torch.from_numpy(vector("atc", "N02BE01"))
    assert torch.allclose(scale, scale.mean().expand(128), rtol=1e-4)
    ids = torch.arange(len(VOCAB))[None]
    extra = {n: torch.zeros_like(ids) for n in ("age", "time", "visit", "segment")}
    assert model.base_model(ids, **extra).last_hidden_state.shape[-1] == 64
    model(ids, labels=ids, **extra).loss.backward()
    maps = [p for n, p in model.named_parameters() if tuple(p.shape) == (64, 128)]
    assert maps
    assert all(p.grad.abs().sum() > 0 for p in maps)


def test_kinds_without_a_width_of_their_own_pad(clinvec, tokens, tmp_path):
    config = BertModelConfig(size="tiny", hidden=144, heads=2, layers=1)
    with pytest.raises(UserError, match=r"learned_projection needs a kind whose .* not bert"):
        how = CodesConfig(resize="learned_projection")
        init(tokens, tmp_path / "m", config, how, codes=[str(clinvec)])
    assert not (tmp_path / "m").exists()
    done = init(tokens, tmp_path / "m", config, CodesConfig(), codes=[str(clinvec)])
    assert done.method == "pad_smart"


def test_descriptions_are_a_space_of_their_own(clinvec, tmp_path):
    of = {"GENDER//F": {"description": "Female"}, "ICD10CM/E11.6": {"description": "Female"}}
    tokens = write_tokens(tmp_path / "tokens", words(*CODES, **of))
    (tmp_path / "texts.csv").write_text("description,a,b\nfemale,3,4\nmale,1,0\n")
    config = TINY["behrt"]
    how = CodesConfig(noise=0, vocabularies=("atc",), resize="pad_smart")
    with pytest.raises(UserError, match="pad_smart cannot compress vectors of 128 to 64"):
        init(tokens, tmp_path / "m", config, how, codes=[str(clinvec)])
    done = init(tokens, tmp_path / "m", config, how, descriptions=tmp_path / "texts.csv")
    rows = code_rows(done.model)
    assert (rows[SEX, 0] / rows[SEX, 1]).item() == pytest.approx(3 / 4)
    assert [f.how for f in done.found if f.row >= 0] == ["description"] * 2


def test_frozen_codes_stay_frozen_with_a_new_head_and_take_a_tied_decoder_along():
    model = fresh(TINY["behrt"])
    assert freeze_codes(model) is False
    assert all(p.requires_grad for p in model.parameters())
    model.config.freeze_codes = True
    assert freeze_codes(model)
    assert not model.get_output_embeddings().weight.requires_grad
    assert model.get_output_embeddings().bias.requires_grad
    classifier = build_classifier(model, 1, PooledConfig(), problem="binary")
    assert freeze_codes(classifier)
    frozen = [n for n, p in classifier.named_parameters() if not p.requires_grad]
    assert frozen == ["behrt.embeddings.code.weight"]


def run(tokens, out, *args):
    common = (
        "init",
        "--kind",
        "behrt",
        "--size",
        "tiny",
        "--tokens",
        str(tokens),
        "--out",
        str(out),
    )
    return CliRunner().invoke(main, [*common, *map(str, args)])


def test_the_command_writes_a_sealed_checkpoint_with_its_report(clinvec, tokens, tmp_path):
    more = ("--codes", clinvec, "--resize", "truncate", "--freeze-codes", "-s", "layers=1")
    outs = [tmp_path / "a", tmp_path / "b"]
    results = [run(tokens, out, *more) for out in outs]
    assert results[0].exit_code == 0, results[0].output
    table, words_of = results[0].output.split("embedding of width 64"), results[0].output.split()
    assert table[0].split("\n")[0].split() == [
        "vocabulary", "tokens", "exact", "description", "parent", "1", "parent", "2", "parent", "3+",
        "random",
    ]  # fmt: skip
    assert "resized by truncate; the embedding is frozen" in results[0].output
    assert words_of[-3:] == [str(outs[0] / "codes.parquet"), "and", str(outs[0] / "codes.png")]
    assert verify(outs[0]) == []
    manifest = load_manifest(outs[0])
    assert manifest == load_manifest(outs[1])
    assert {"codes.parquet", "codes.png"} <= manifest.files.keys()
    assert manifest.inputs.keys() == {"tokens", "codes_0"}
    assert manifest.config["codes"]["resize"] == "truncate"
    report = pq.read_table(outs[0] / "codes.parquet").to_pylist()
    assert [r["found"] for r in report].count("exact") == 4
    assert (outs[0] / "codes.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((outs[0] / "config.json").read_text())["freeze_codes"] is True
    assert str(clinvec.parent) not in (outs[0] / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "nothing to start from"),
        (("--codes", "CLINVEC", "--vocabularies", "icd11"), "no vocabulary icd11 in ClinVec"),
        (("--codes", "none.csv"), "none.csv: no such file or directory"),
        (("--codes", "CLINVEC", "--resize", "pad_random"), "pad_random cannot compress"),
        (("--codes", "BARE"), r"none of the 7 codes of the vocabulary was found; say which"),
        (("--codes", "CLINVEC", "--rxnorm-atc", "BARE"), "column rxcui is missing"),
        (("--codes", "CLINVEC", "--size", "huge"), "no preset behrt-huge"),
        (("--codes", "CLINVEC", "-s", "laers=1"), "unknown key laers"),
    ],
)
def test_a_mistake_gets_one_line_and_writes_nothing(clinvec, tokens, tmp_path, args, message):
    bare = tmp_path / "bare.csv"
    bare.write_text("code,x,y\nE11.6,1,2\n")
    named = {"CLINVEC": clinvec, "BARE": bare}
    result = run(tokens, tmp_path / "m", *(named.get(a, a) for a in args))
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "m").exists()
