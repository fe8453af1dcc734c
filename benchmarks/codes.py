"""ClinVec at its true size (153,000 x 128, made up), read and laid under a vocabulary of 40,000.

    uv run python benchmarks/codes.py [--rows 153000] [--vocab 40000] [--size large]

Three times are told: of the command `ehr-models init` from start to end, imports and writing of the
checkpoint included; of reading the directory alone; and of building the model and its rows. The target
is 5 s for the last two together.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from string import ascii_uppercase

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from ehr_models.codes.clinvec import NTYPES, WIDTH, read_clinvec
from ehr_models.codes.config import CodesConfig
from ehr_models.codes.find import Finder, look_up
from ehr_models.codes.mapping import Mapping
from ehr_models.codes.start import start
from ehr_models.data.tokens import open_tokens
from ehr_models.kinds.behrt import BehrtModelConfig
from ehr_models.vocabulary import Word
from ehr_tracking.contracts import SPECIALS, TOKENS
from ehr_tracking.manifest import seal

SHARES = {"icd10cm": 0.5, "snomedct": 0.3, "rxnorm": 0.1, "atc": 0.04, "cpt": 0.06}
"""Of all rows, by vocabulary."""


def main() -> None:
    """Make the files, measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=153_000, help="Vectors in all (153,000).")
    parser.add_argument("--vocab", type=int, default=40_000, help="Tokens (40,000).")
    parser.add_argument("--size", default="large", help="Of BEHRT (large).")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clinvec, tokens = Path(folder) / "ClinVec", Path(folder) / "tokens"
        codes = write_clinvec(clinvec, args.rows)
        write_tokens(tokens, codes, args.vocab)
        begun = time.perf_counter()
        vectors = read_clinvec(clinvec)
        read = time.perf_counter()
        mapping = Mapping()
        finder = Finder(mapping, look_up(vectors.keys, mapping))
        model = BehrtModelConfig(size=args.size)
        done = start(model, open_tokens(tokens), finder, vectors, None, CodesConfig())
        started = time.perf_counter()
        command = [sys.executable, "-c", "from ehr_models.cli import main; main()"]
        command += ["init", "--kind", "behrt", "--size", args.size, "--tokens", str(tokens)]
        command += ["--codes", str(clinvec), "--out", str(Path(folder) / "out")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        ended = time.perf_counter()
    hows = [f.how for f in done.found]
    figures = {
        "rows": args.rows,
        "vocabulary": args.vocab,
        "found": {how: hows.count(how) for how in sorted(set(hows))},
        "read_s": round(read - begun, 2),
        "initialise_s": round(started - read, 2),
        "both_s": round(started - begun, 2),
        "command_s": round(ended - started, 2),
    }
    print(json.dumps(figures, indent=1))


def write_clinvec(directory: Path, rows: int) -> list[tuple[str, str]]:
    """A directory in ClinVec's shape; returns (vocabulary, code) of each row."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    icd = [
        f"{a}{b:02}.{c}{d}"
        for a, b, c, d in product(ascii_uppercase, range(100), "0123456789", "0123456789")
    ]
    numbers = {
        "icd10cm": icd,
        "snomedct": [str(10_000_000 + i) for i in range(rows)],
        "rxnorm": [str(i) for i in range(rows)],
        "atc": [f"{a}{b:02}{c}{d}{e:02}" for a, b, c, d, e in product("ABCDGHJLMNPRSV", range(3), "ABC", "ABC", range(30))],
        "cpt": [f"{i:05}" for i in range(10_000, 100_000)],
    }  # fmt: skip
    found, index, nodes = [], 0, {"node_id": [], "node_name": [], "ntype": [], "node_index": []}
    for vocabulary, share in SHARES.items():
        codes = numbers[vocabulary][: int(rows * share)]
        number = np.arange(index, index + len(codes))
        matrix = rng.normal(-0.1, 1, (len(codes), WIDTH)).astype(np.float32)
        columns = {"": number} | {str(i): matrix[:, i] for i in range(WIDTH)}
        csv.write_csv(pa.table(columns), directory / f"ClinVec_{vocabulary}.csv")
        nodes["node_id"] += [f"{code}:{vocabulary}" for code in codes]
        nodes["node_name"] += [f"name of {code}" for code in codes]
        nodes["ntype"] += [NTYPES[vocabulary]] * len(codes)
        nodes["node_index"] += number.tolist()
        found += [(vocabulary, code) for code in codes]
        index += len(codes)
    options = csv.WriteOptions(delimiter="\t")
    csv.write_csv(pa.table(nodes), directory / "ClinGraph_nodes.csv", options)
    return found


def write_tokens(directory: Path, codes: list[tuple[str, str]], vocab: int) -> None:
    """A token data set without records, whose vocabulary has codes of ClinVec and codes below these."""
    directory.mkdir()
    words = [Word(id=i, token=t, kind="special", code=None, bin=None, lower=None, upper=None,
                  count=0, subjects=0, description=None, parents=None) for i, t in enumerate(SPECIALS)]  # fmt: skip
    names = {
        "icd10cm": "ICD10CM",
        "snomedct": "SNOMED",
        "rxnorm": "RxNorm",
        "atc": "ATC",
        "cpt": "CPT4",
    }
    picked = np.random.default_rng(1).permutation(len(codes))[: vocab - len(words)]
    for i, at in enumerate(picked.tolist(), len(words)):
        vocabulary, code = codes[at]
        below = "7" if vocabulary == "icd10cm" and i % 5 == 0 else ""
        text = f"{names[vocabulary]}/{code}{below}"
        words.append(Word(id=i, token=text, kind="code", code=text, bin=None, lower=None, upper=None,
                          count=1, subjects=1, description=None, parents=None))  # fmt: skip
    columns = {f: [getattr(w, f) for w in words] for f in Word.__slots__}
    types = {
        "id": pa.int32(), "bin": pa.int32(), "lower": pa.float32(), "upper": pa.float32(),
        "description": pa.string(), "parents": pa.list_(pa.string()), "seconds": pa.float64(),
    }  # fmt: skip
    arrays = {name: pa.array(values, types.get(name)) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), directory / "vocab.parquet")
    (directory / "tokenizer.json").write_text("{}")
    seal(directory, TOKENS, producer="benchmark 0", config={}, seed=0)


if __name__ == "__main__":
    main()
