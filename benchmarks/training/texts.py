"""The text route beside TRL's SFTTrainer with packing: the same small Llama on the same tokens.

Ours takes the steps that `ehr-train text` takes: it differs from `ehr-train` in how texts become tokens.
"""

import tempfile
from pathlib import Path
from typing import Any

from contenders import OURS, WARMUP, Laps, device, in_own_process, measure, our_config
from records import CONTEXT, CPU, VOCABULARY, batches, write_tokens

MODEL, TRL = "llama 4 x 128", "trl packed"
_STEPS = 5


def compare(scratch: Path, *, rounds: int) -> list[dict[str, str]]:
    """Rounds of both, or of ours alone where TRL is not installed."""
    from importlib.util import find_spec

    from beside import spread

    data = in_own_process(write_tokens, scratch / "tokens")
    packed = find_spec("trl") is not None
    turns = []
    for number in range(1, rounds + 1):
        turn = {OURS: in_own_process(measure, OURS, MODEL, data, number, _STEPS)}
        if packed:
            turn[TRL] = in_own_process(trl, number)
        turns.append(turn)
    key = "wall" if device() == "cuda" else "cpu"
    rows = []
    for name in turns[0]:
        ratios = [turn[OURS][key] / turn[name][key] for turn in turns]
        rates = spread([turn[name][key] for turn in turns], ",.0f")
        rows.append(
            {"contender": name, f"tokens/s ({key})": rates, "ours / it": spread(ratios, ".2f")}
        )
    return rows


def trl(number: int) -> dict[str, float]:
    """TRL's trainer; a row of its batch holds a context of tokens."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from ehr_models.registry import build

    config, seen = our_config(MODEL), [0]
    net = build(config.model, VOCABULARY)
    net.set_attn_implementation("sdpa")
    net.register_forward_pre_hook(
        lambda _net, _args, kwargs: seen.append(seen[-1] + kwargs["input_ids"].numel()),
        with_kwargs=True,
    )

    class Mark(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
            laps.mark(seen[-1])

    warmup = WARMUP[OURS]
    laps = Laps(warmup, _STEPS)
    size = max(1, config.data.batch_tokens // CONTEXT)
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(), packing=True, max_length=CONTEXT, per_device_train_batch_size=size,
        max_steps=warmup + _STEPS, bf16=config.precision == "bf16", use_cpu=device() == "cpu",
        gradient_checkpointing=False, optim="adamw_torch_fused", learning_rate=1e-4, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    rows = [{"input_ids": r.tolist()} for r in batches(3 * CPU.batch, grouped=False, seed=number)]
    SFTTrainer(
        net, arguments, train_dataset=Dataset.from_list(rows), callbacks=[Mark()],
        processing_class=_tokenizer(),
    ).train()  # fmt: skip
    return laps.figures()


def _tokenizer() -> Any:  # noqa: ANN401 -- transformers'
    """One that says what pads; rows are ids already."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "[EOS]": 6}, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]"
    )
