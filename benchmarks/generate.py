"""Useful tokens a second of futures: our decoder, transformers' `generate`, and reading all anew.

    uv run python benchmarks/generate.py [--quick] [--kind llama] [--subjects 2 8] [--precision bf16]

Three ways draw the same futures of the same records from the same weights: ours (prefixes shared by all
samples of a record, rows that end leave and others join), `generate` one record at a time with
`num_return_sequences`, and a forward over the whole sequence for each token of all samples of a record.
Uniform numbers are given, so that all draw the same tokens, and futures end by chance, so that their
lengths differ; a token is useful up to the end of its future. That the tokens are the same, sampled and
greedy, is asserted in fp32 before anything is timed.

The ways take turns. Reading anew is timed over the first tokens of each future only, which are its
cheapest; it and `generate` take one record after the other, so a few stand for all. In bf16 `generate` and reading anew get weights of that type, which is faster than autocast.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it when it is loaded

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from ehr_models.data.batch import Batch
from ehr_models.decoding.decoder import Decoder
from ehr_models.kinds import KINDS
from ehr_models.layers.attention import NAME
from ehr_models.precision import resolve_precision
from ehr_models.registry import build
from ehr_tracking.contracts import EOS_ID, PAD_ID, SPECIALS
from ehr_tracking.report import text_table

HEARD = {"input_ids", "position_ids"}
"""`generate` gives a model nothing else, so kinds that hear times have no place here."""
KINDS_HERE = [n for n, k in KINDS.items() if k.incremental and set(k.inputs.values()) <= HEARD]
WAYS = ("ours", "generate", "reading anew")
SHARPER = 8
"""Times the embeddings of a new model, whose next tokens would be nearly even."""


def main() -> None:
    """Measure, print a table, and end with one JSON object."""
    args = parser().parse_args()
    if args.quick:
        args.subjects, args.rounds, args.anew, args.size = [2], 1, 1, "tiny"
    torch.set_num_threads(args.threads)
    print(json.dumps({"machine": in_own_process(machine)}))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    agree(Setting.of(args, 2, "fp32", device))
    rows, shares = [], {}
    for precision in args.precision or [resolve_precision("auto", device)]:
        for subjects in args.subjects:
            setting = Setting.of(args, subjects, precision, device)
            figures = measure(setting, args)
            rows += figures
            shares[f"{subjects} subjects, {precision}"] = {
                r["way"]: r["ours / it"] for r in figures if r["way"] != "ours"
            }
    print(text_table([shown(row) for row in rows]))
    shape = {n: getattr(args, n) for n in ("kind", "size", "prefix", "new", "samples", "threads")}
    found = {"ratios": shares, "targets": {"generate": 20, "reading anew": 100}, "rows": rows}
    print(json.dumps({"benchmark": "generate", "quick": args.quick, "shape": shape, **found}))


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--kind", default="gpt2", choices=KINDS_HERE, help="Of the model (gpt2).")
    made.add_argument("--size", default="small", help="Of its kind (small).")
    made.add_argument("--vocabulary", type=int, default=4096, help="Tokens there are (4096).")
    made.add_argument("--prefix", type=int, default=1000, help="Tokens of a record (1000).")
    made.add_argument("--new", type=int, default=96, help="Tokens of a future, at most (96).")
    made.add_argument("--mean", type=float, default=48, help="... on average, without that (48).")
    made.add_argument("--subjects", type=int, nargs="+", default=[2, 8], help="Records (2 and 8).")
    made.add_argument("--samples", type=int, default=20, help="Futures of a record (20).")
    made.add_argument(
        "--theirs",
        type=int,
        default=2,
        help="... that the others, who take them singly, are timed on (2).",
    )
    made.add_argument("--rows", type=int, default=640, help="Futures at a time, ours (640).")
    made.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), help="As by `auto`.")
    made.add_argument("--rounds", type=int, default=3, help="Of each way (3).")
    made.add_argument("--anew", type=int, default=2, help="Tokens read anew of a future (2).")
    made.add_argument("--threads", type=int, default=1, help="Of a CPU (1).")
    made.add_argument("--quick", action="store_true", help="Under a minute.")
    return made


@dataclass(frozen=True)
class Setting:
    """One model, its records, and the numbers that decide their futures."""

    model: PreTrainedModel
    """With packed attention, fp32, for ours"""
    theirs: PreTrainedModel
    """The same weights in the type of the comparison, with transformers' own attention"""
    precision: str
    records: Tensor
    """[subjects, prefix]"""
    uniforms: Tensor
    """[subjects, samples, new]"""
    ends: Tensor
    """[subjects, samples, new] bool, whether a future ends with that token"""
    rows: int

    @classmethod
    def of(
        cls, args: argparse.Namespace, subjects: int, precision: str, device: torch.device
    ) -> "Setting":
        """The same for the same arguments."""
        torch.manual_seed(0)
        config = KINDS[args.kind].config(size=args.size, max_positions=args.prefix + args.new)
        model = build(config, args.vocabulary).eval().to(device)
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(SHARPER)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        theirs = type(model)(type(model.config).from_dict(model.config.to_dict()))
        theirs.load_state_dict(model.state_dict())
        theirs.set_attn_implementation("sdpa")
        model.set_attn_implementation(NAME)
        shape = (subjects, args.samples, args.new)
        records = torch.randint(len(SPECIALS), args.vocabulary, (subjects, args.prefix))
        uniforms, ends = torch.rand(shape), torch.rand(shape) < 1 / args.mean
        ends[..., -1] = True
        return cls(
            model,
            theirs.eval().to(device, dtype),
            precision,
            *(x.to(device) for x in (records, uniforms, ends)),
            args.rows,
        )


def draw(logits: Tensor, uniform: Tensor | None, ends: Tensor) -> Tensor:
    """Next tokens [R]; of logits [R, V] the likeliest where no uniform numbers [R] are given."""
    logits = logits.float().clone()
    logits[:, : len(SPECIALS)] = -torch.inf
    if uniform is None:
        token = logits.argmax(-1)
    else:
        chances = logits.softmax(-1).cumsum(-1)
        at = (uniform * chances[:, -1])[:, None]
        token = torch.searchsorted(chances, at, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    return token.where(~ends, EOS_ID)


def batch_of(records: Tensor) -> Batch:
    """Records [S, L] as spans."""
    count, length = records.shape
    where = torch.arange(count * length, device=records.device)
    nothing = torch.zeros_like(where)
    return Batch(
        input_ids=records.flatten(),
        position_ids=where % length,
        age=nothing.float(),
        time=nothing,
        visit=nothing,
        segment=nothing,
        index=where,
        span=where // length,
        cu_seqlens=torch.arange(0, count * length + 1, length, dtype=torch.int32),
        max_length=length,
    )


def ours(setting: Setting, decoder: Decoder, *, greedy: bool = False) -> Tensor:
    """[subjects, samples, new] tokens, [PAD] behind ends; rows that end make room at once."""
    subjects, samples, new = setting.uniforms.shape
    uniforms, ends = (x.reshape(-1, new) for x in (setting.uniforms, setting.ends))
    out = torch.full_like(uniforms, PAD_ID, dtype=torch.int64)
    row = at = torch.zeros(0, dtype=torch.int64, device=out.device)
    states = None
    begun = 0
    while begun < subjects or decoder.rows:
        more = min(subjects - begun, max(0, setting.rows - decoder.rows) // samples)
        if more:
            records = setting.records[begun : begun + more]
            first = decoder.prefill(batch_of(records), torch.full((more,), samples))
            states = first if states is None else torch.cat([states, first])
            added = torch.arange(begun * samples, (begun + more) * samples, device=out.device)
            row, at = torch.cat([row, added]), torch.cat([at, torch.zeros_like(added)])
            begun += more
        uniform = None if greedy else uniforms[row, at]
        token = draw(decoder.logits(states), uniform, ends[row, at])
        out[row, at] = token
        going = (token != EOS_ID).nonzero()[:, 0]
        if len(going) < len(row):
            decoder.keep(going)
            row, at, token = row[going], at[going], token[going]
        at = at + 1
        states = decoder.step(token, {}) if decoder.rows else None
    return out.view(subjects, samples, new)


class Given(LogitsProcessor):
    """Leaves `generate` the drawn tokens alone to choose from."""

    def __init__(self, setting: Setting, subject: int, *, greedy: bool) -> None:
        self.uniforms, self.ends = setting.uniforms[subject], setting.ends[subject]
        self.greedy, self.at = greedy, 0

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        """Of scores [samples, V]."""
        uniform = None if self.greedy else self.uniforms[:, self.at]
        token = draw(scores, uniform, self.ends[:, self.at])
        self.at += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)


@torch.inference_mode()
def theirs(setting: Setting, *, greedy: bool = False) -> Tensor:
    """The same by `generate`, one record after the other."""
    subjects, samples, new = setting.uniforms.shape
    out = torch.full((subjects, samples, new), PAD_ID)
    for subject in range(subjects):
        prompt = setting.records[subject : subject + 1]
        found = setting.theirs.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=new,
            num_return_sequences=samples,
            do_sample=True,
            top_k=0,
            logits_processor=[Given(setting, subject, greedy=greedy)],
            pad_token_id=PAD_ID,
            eos_token_id=EOS_ID,
        )[:, prompt.shape[1] :]
        out[subject, :, : found.shape[1]] = found
    return out


@torch.inference_mode()
def anew(setting: Setting, tokens: int, *, greedy: bool = False) -> Tensor:
    """The first tokens by a forward over all that is there, for all samples of a record together."""
    subjects, samples, new = setting.uniforms.shape
    out = torch.full((subjects, samples, new), PAD_ID)
    for subject in range(subjects):
        seen = setting.records[subject].expand(samples, -1)
        ended = torch.zeros(samples, dtype=torch.bool, device=seen.device)
        for i in range(min(tokens, new)):
            logits = setting.theirs(seen, use_cache=False, logits_to_keep=1).logits[:, 0]
            uniform = None if greedy else setting.uniforms[subject, :, i]
            token = draw(logits, uniform, setting.ends[subject, :, i])
            out[subject, :, i] = token.where(~ended, PAD_ID)
            ended |= token == EOS_ID
            seen = torch.cat([seen, token[:, None]], 1)
    return out


def agree(setting: Setting) -> None:
    """Assert in fp32 that all ways draw the same; shorter, as a near tie in rounding is rare, not excluded."""
    ends = setting.ends[:, :6, :24].clone()
    ends[..., -1] = True
    short = replace(
        setting,
        records=setting.records[:, : min(200, setting.records.shape[1])],
        uniforms=setting.uniforms[:, :6, :24],
        ends=ends,
        rows=8,
    )
    decoder = Decoder(setting.model, precision="fp32")
    for greedy in (False, True):
        found = ours(short, decoder, greedy=greedy).cpu()
        assert torch.equal(found, theirs(short, greedy=greedy).cpu()), "ours and generate differ"
        read = anew(short, 4, greedy=greedy)[..., :4].cpu()
        assert torch.equal(found[..., :4], read), "ours and reading anew differ"


def measure(setting: Setting, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way: useful tokens a second, and how many times as many ours are."""
    decoder = Decoder(setting.model, precision=setting.precision)  # type: ignore[arg-type]
    names = ("records", "uniforms", "ends")
    few = replace(setting, **{n: getattr(setting, n)[: args.theirs] for n in names})
    ways: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: ours(setting, decoder),
        "generate": lambda: theirs(few),
        "reading anew": lambda: anew(few, args.anew),
    }
    clock = "wall" if setting.records.is_cuda else "cpu"
    ours(setting, decoder)  # once, for what is made on first use
    laps: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(args.rounds):
        for way in WAYS if number % 2 == 0 else reversed(WAYS):
            print(f"... {way}, {setting.precision}", file=sys.stderr)
            laps[way].append(timed(ways[way]))
    return [
        {
            "subjects": len(setting.records),
            "precision": setting.precision,
            "way": way,
            "tokens": int(laps[way][0]["tokens"]),
            "per CPU second": spread([lap["tokens"] / lap["cpu"] for lap in laps[way]]),
            "per second": spread([lap["tokens"] / lap["wall"] for lap in laps[way]]),
            "ours / it": spread(
                [
                    mine["tokens"] / mine[clock] / (lap["tokens"] / lap[clock])
                    for mine, lap in zip(laps["ours"], laps[way], strict=True)
                ]
            ),
        }
        for way in WAYS
    ]


def timed(way: Callable[[], Tensor]) -> dict[str, float]:
    """Useful tokens, and seconds of wall and CPU."""
    begun = time.perf_counter(), time.process_time()
    found = way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
    return {"tokens": int((found != PAD_ID).sum()), "wall": wall, "cpu": cpu}


def spread(values: list[float]) -> dict[str, float]:
    """Median, and the least and the most, to three digits."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: float(f"{value:.3g}") for name, value in found.items()}


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row as text."""
    return {
        name: f"{v['median']:,g} ({v['least']:,g} to {v['most']:,g})" if isinstance(v, dict) else v
        for name, v in row.items()
    }


def machine() -> dict[str, Any]:
    """What decides how fast a CPU is here: its flags, and its peaks in matrix products, one thread."""
    from ehr_train.speed import matmul_peak

    torch.set_num_threads(1)
    kept = ("avx2", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile")
    flags = {k: bool(v) for k, v in torch.cpu.get_capabilities().items() if k in kept}
    cpu = torch.device("cpu")
    peaks = {p: round(matmul_peak(cpu, p) / 1e9, 1) for p in ("fp32", "bf16")}
    return {"flags": flags, "matmul_gflops": peaks}


def in_own_process(function: Callable[[], Any]) -> Any:  # noqa: ANN401 -- any function
    """Call it in a fork of this process."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(function).result()


if __name__ == "__main__":
    main()
