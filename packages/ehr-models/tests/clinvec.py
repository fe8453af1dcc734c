"""ClinVec directories and vocabularies, small and of the published shape."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_models.vocabulary import Word
from ehr_tracking.contracts import SPECIALS, TOKENS
from ehr_tracking.manifest import seal

WIDTH = 128
NODES = {
    "icd10cm": ["E11", "E11.6", "I10", "S72.0", "C7A", "a:b"],
    "icd9cm": ["250", "250.0", "00.39", "003.9"],
    "phecode": ["250", "250.0", "250.1"],
    "atc": ["N02BE01", "N02BE", "A10", "C"],
    "cpt": ["99213"],
    "lnc": ["LP14355-9"],
    "rxnorm": ["161"],
    "snomedct": ["44054006"],
    "umls": ["C0011849"],
}
NTYPE = {name: name.upper() for name in NODES} | {"snomedct": "SNOMEDCT_US", "umls": "UMLS_CUI"}


def vector(vocabulary, code, width=WIDTH):
    """The vector of a node: some of them run to -10, none is like another."""
    rng = np.random.default_rng(
        sorted(NODES).index(vocabulary) * 100 + NODES[vocabulary].index(code)
    )
    return rng.normal(-0.5, 3, width).astype(np.float32)


def write_clinvec(directory, vocabularies=NODES):
    """Write them; node indices are not in the order of the files, and one name is missing."""
    directory.mkdir(parents=True)
    everyone = [(v, c) for v in NODES for c in NODES[v]]
    index = dict(
        zip(everyone, np.random.default_rng(0).permutation(len(everyone)) + 40, strict=True)
    )
    lines = ["node_id\tnode_name\tntype\tnode_index"]
    for i, (v, c) in enumerate(everyone):
        name = "" if i == 2 else f'"a ""quoted"" name, {i}"'
        lines.append(f"{c}:{v}\t{name}\t{NTYPE[v]}\t{index[v, c]}")
    (directory / "ClinGraph_nodes.csv").write_text("\n".join(lines) + "\n")
    for v in vocabularies:
        lines = ["," + ",".join(map(str, range(WIDTH)))]
        lines += [f"{index[v, c]},{','.join(f'{x:.9g}' for x in vector(v, c))}" for c in NODES[v]]
        (directory / f"ClinVec_{v}.csv").write_text("\n".join(lines) + "\n")
    return directory


def words(*codes, **of):
    """Specials, then a token for each code; `of`: code -> fields of its word."""
    empty = dict.fromkeys(("code", "bin", "lower", "upper", "description", "parents"))
    rows = [{"token": t, "kind": "special"} for t in SPECIALS]
    rows += [
        {"token": c, "kind": "code", "code": c, **of.get(c, {})} if isinstance(c, str) else c
        for c in codes
    ]
    return [
        Word(**{**empty, "count": 1, "subjects": 1, **row, "id": i}) for i, row in enumerate(rows)
    ]


def write_tokens(directory, vocabulary):
    """A token data set without records."""
    directory.mkdir()
    types = {
        "id": pa.int32(), "code": pa.string(), "bin": pa.int32(), "lower": pa.float32(),
        "upper": pa.float32(), "description": pa.string(), "parents": pa.list_(pa.string()),
        "seconds": pa.float64(), "origin": pa.int32(),
    }  # fmt: skip
    columns = {f: [getattr(w, f) for w in vocabulary] for f in Word.__slots__}
    arrays = {name: pa.array(values, types.get(name)) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), directory / "vocab.parquet")
    (directory / "tokenizer.json").write_text("{}")
    seal(directory, TOKENS, producer="test 0", config={}, seed=0)
    return directory
