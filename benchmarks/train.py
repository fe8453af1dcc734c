"""Real tokens per second: ours, packed, beside Hugging Face's Trainer on padded batches.

    uv run python benchmarks/train.py [--quick]                 beside Trainer
    uv run python benchmarks/train.py --model "gpt2 4 x 128"    one model alone (as often as there are some)
    uv run python benchmarks/train.py --gpu                     100M parameters on a GPU, and their MFU
    uv run python benchmarks/train.py --text                    packed text beside TRL's SFTTrainer, where it is installed
    uv run python benchmarks/train.py --against DIR|COMMIT      this version beside another, in turns
    uv run python benchmarks/train.py --large [TOKENS]          memory and start on a large split

Beside Trainer, all train the same model (no dropout, fused activation, fused AdamW) on the same made-up
records (log-normal lengths, median 120, cut to the context): GPT-2 by the next token, BEHRT by masks, in
bf16 where the machine has it. Contenders alternate, each turn in a process of its own; printed are medians
over the rounds and their range, ratios being those of one round. Padding counts for nobody. Trainer runs
over batches of 16 as drawn, and over such as it groups by length. A step of ours holds as many real tokens as
one of Trainer's does on average. On a CPU every process has one thread, and figures are also given per
CPU second, which other work on the machine disturbs less; on a GPU only wall time counts. Two
processes have a core each, at steps of that size and, with one process beside them, at steps of four
times as many tokens; two runs at once that know nothing of each other say what two cores can give.
The share of the peak counts the products of weights alone: on a GPU that is the MFU. Libraries are loaded
once, before the processes fork.

The other version trains in processes of its own, one thread each, on the same tokens; rounds alternate.
The large split is written, measured and deleted (3 bytes a token, and 17 for its store).
"""

import sys
from pathlib import Path

# this folder holds a tokenize, which is not the standard library's
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent / "training"))

import argparse
import json
import os
import tempfile
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # NumPy and torch read it when they are loaded
# else to ask whether there is a GPU would keep forks from using it
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"


def main() -> None:
    """Measure, print a table, and end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="One small model, one round.")
    parser.add_argument("--model", action="append", help="One of those measured, and no other.")
    parser.add_argument("--gpu", action="store_true", help="A model of 100M parameters.")
    parser.add_argument("--text", action="store_true", help="Beside TRL's packed fine-tuning.")
    parser.add_argument(
        "--against", metavar="DIR|COMMIT", help="Another version of this repository."
    )
    parser.add_argument("--rounds", type=int, help="Of each contender (5; 1 with --quick).")
    parser.add_argument(
        "--large",
        type=int,
        nargs="?",
        const=1_000_000_000,
        metavar="TOKENS",
        help="Measure a run on a split of so many tokens (1 billion).",
    )
    parser.add_argument("--out", type=Path, help="Write the JSON here too.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), args)
    text = json.dumps(found)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def measured(scratch: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for; tables are printed."""
    import transformers
    from contenders import in_own_process
    from machine import machine

    from ehr_tracking.report import text_table

    about = in_own_process(machine)
    print(json.dumps(about))
    rounds = args.rounds or (1 if args.quick else 5)
    if args.large:
        import large

        return {"benchmark": "large", "machine": about, **large.measure(scratch, args.large)}
    _ = transformers.GPT2LMHeadModel, transformers.Trainer  # loaded when they are first named
    if args.against:
        import versions
        from records import write_tokens

        data = in_own_process(write_tokens, scratch / "tokens")
        rows = versions.compare(data, scratch, args.against, rounds=rounds, quick=args.quick)
        print(text_table(rows))
        return {"benchmark": "versions", "machine": about, "against": args.against, "rows": rows}
    if args.text:
        import texts

        rows = texts.compare(scratch, rounds=rounds)
        print(text_table(rows))
        return {"benchmark": "text", "machine": about, "rows": rows}
    import beside

    models = args.model or beside.names(quick=args.quick, large_too=args.gpu)
    peaks = about.get("gpu_matmul_gflops", about["matmul_gflops"])
    found = beside.compare(scratch, models, peaks, rounds=rounds, quick=args.quick)
    print(text_table(found["rows"]))
    return {"benchmark": "train", "quick": args.quick, "machine": about, **found}


if __name__ == "__main__":
    main()
