"""A model of another vocabulary with its rows in the order of ours.

V rows of ours, W rows of theirs, D width.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ehr_models.registry import from_architecture
from ehr_tracking.contracts import BOS_ID, EOS_ID, PAD_ID


@torch.no_grad()
def relay(theirs: PreTrainedModel, origin: Sequence[int]) -> PreTrainedModel:
    """The same model over V tokens; nothing pads its embedding, so that no probability changes.

    Args:
        theirs: With a head over tokens, of the zoo.
        origin: [V] the row of theirs that each row of ours is.

    Returns:
        In evaluation mode. Logits of a token are those of its row.
    """
    config = deepcopy(theirs.config)
    config.vocab_size = config.true_vocab_size = len(origin)
    config.pad_token_id, config.bos_token_id, config.eos_token_id = PAD_ID, BOS_ID, EOS_ID
    config.dtype = None
    ours = from_architecture(config, "token")
    index = torch.tensor(origin)
    by_row = {name for name, parameter in theirs.named_parameters() if _of_rows(theirs, parameter)}
    state = {
        name: (value[index] if name in by_row else value).to(torch.float32)
        for name, value in theirs.named_parameters()
    }
    buffers = {name: value for name, value in theirs.state_dict().items() if name not in state}
    own = ours.state_dict()
    kept = {n: v for n, v in buffers.items() if n in own and v.shape == own[n].shape}
    ours.load_state_dict({**kept, **state}, strict=False)
    ours.tie_weights()
    ours.eval()
    return ours


def _of_rows(model: PreTrainedModel, parameter: Tensor) -> bool:
    ends: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    return any(
        parameter is weight
        for end in ends
        if isinstance(end, nn.Module)
        for weight in end.parameters()
    )
