"""ExMed-BERT: a bidirectional encoder over a subject's drugs and diagnoses, with age, sex and region.

This file is copied beside checkpoints as their remote code, with `layers/encoder.py` and
`layers/embeddings.py`: they need torch and transformers only.

Source: Lentzen et al. 2023, A Transformer-Based Model Trained on Large Scale Claims Data for
Prediction of Severe COVID-19 Disease Progression, IEEE J Biomed Health Inform 27(9).

B batch, L length, D width, V vocabulary, S spans. A packed batch is B = 1, L = T.
"""
# transformers leaves some methods untyped
# mypy: allow-untyped-calls

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from ehr_models.layers.embeddings import BinnedDays, waves
from ehr_models.layers.encoder import EncoderLayer, TokenHead, masked_loss

LOOKUPS = ("entity_of", "sex_of", "region_of")
"""Buffers [V] of the embeddings, of what the vocabulary says."""


class ExMedBertConfig(PreTrainedConfig):
    """Sizes of an ExMed-BERT."""

    model_type = "exmed_bert"

    vocab_size: int = 1024
    """Rows of the embedding."""
    true_vocab_size: int | None = None
    """How many of these are codes, where the rest only pads."""
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 128
    max_position_embeddings: int = 512
    """Longest sequence that shall be fed; nothing is sized by it."""
    entities: int = 3
    """What codes are: 0 for what is none of the others, drugs, diagnoses."""
    sexes: int = 4
    """Unknown, and those that the vocabulary tells of; so with regions."""
    regions: int = 64
    ages: int = 1110
    """Tenths of a year."""
    position: Literal["sinusoid", "learned"] = "sinusoid"
    max_visits: int = 511
    """Ordinals above share the last row; 0 is outside any visit."""
    mlp: Literal["swiglu", "gelu"] = "gelu"
    norm: Literal["pre", "post"] = "post"
    bias: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True
    pooling: str = "mean"
    classifier_dropout: float = 0.0


class ExMedBertEmbeddings(nn.Module):
    """Sum of code, entity, age, sex, region and visit embeddings; LayerNorm; dropout.

    What a code is and tells is looked up by its id, in buffers [V] that a checkpoint holds.
    """

    entity_of: Tensor
    sex_of: Tensor
    region_of: Tensor

    def __init__(self, config: ExMedBertConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.code = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.entity = nn.Embedding(config.entities, width)
        self.age = BinnedDays(config.ages, 10, width)
        self.sex = nn.Embedding(config.sexes, width)
        self.region = nn.Embedding(config.regions, width)
        if config.position == "learned":
            self.position = nn.Embedding(config.max_visits + 1, width)
        for name in LOOKUPS:
            self.register_buffer(name, torch.zeros(config.vocab_size, dtype=torch.int64))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, input_ids: Tensor, age: Tensor, visit: Tensor, spans: Tensor | None
    ) -> Tensor:
        """Ids, days and ordinals [B, L] to states [B, L, D]; packed spans begin at [S + 1]."""
        code = self.code(input_ids)
        total = code + self.entity(self.entity_of[input_ids]) + self.age(age)
        total = total + self.sex(_told(self.sex_of[input_ids], spans))
        total = total + self.region(_told(self.region_of[input_ids], spans))
        visit = visit.clamp(0, self.config.max_visits)
        if self.config.position == "learned":
            total = total + self.position(visit)
        else:
            total = total + waves(visit, code, self.config.initializer_range)
        states: Tensor = self.dropout(self.norm(total))
        return states


def _told(number: Tensor, spans: Tensor | None) -> Tensor:
    """What a token tells of its subject, told to all tokens of the sequence; [B, L].

    Examples:
        >>> _told(torch.tensor([[0, 2, 0], [0, 0, 0]]), None).tolist()
        [[2, 2, 2], [0, 0, 0]]
        >>> _told(torch.tensor([[0, 2, 0, 0, 1]]), torch.tensor([0, 2, 3, 5])).tolist()
        [[2, 2, 0, 1, 1]]
    """
    if spans is None:
        return number.amax(1, keepdim=True).expand_as(number)
    place = torch.arange(number.shape[1], device=number.device, dtype=spans.dtype)
    span = torch.bucketize(place, spans[1:], right=True)[None]
    return torch.zeros_like(number).scatter_reduce(1, span, number, "amax").gather(1, span)


class ExMedBertPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving."""

    config: ExMedBertConfig
    config_class = ExMedBertConfig
    base_model_prefix = "exmed_bert"
    supports_gradient_checkpointing = True
    _no_split_modules = ["EncoderLayer"]  # noqa: RUF012 -- transformers' own form
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class ExMedBertModel(ExMedBertPreTrainedModel):
    """The encoder."""

    def __init__(self, config: ExMedBertConfig) -> None:
        super().__init__(config)
        self.embeddings = ExMedBertEmbeddings(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The code embedding."""
        return self.embeddings.code

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the code embedding; codes that it adds are of no entity and tell nothing."""
        embeddings, code = self.embeddings, cast("nn.Embedding", value)
        for name in LOOKUPS:
            known = getattr(embeddings, name)
            setattr(embeddings, name, F.pad(known, (0, len(code.weight) - len(known))))
        embeddings.code = code

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        age: Tensor | None = None,
        visit: Tensor | None = None,
        **kwargs: Any,  # noqa: ANN401 -- e.g. the spans of a packed batch
    ) -> BaseModelOutput:
        """Encode a padded batch [B, L], or a packed one [1, T] where attention knows its spans.

        Args:
            input_ids: Codes.
            attention_mask: 0 at padding.
            age: Days since birth.
            visit: Ordinal of the visit, 0 outside any.
            **kwargs: Handed to the attention function.

        Raises:
            ValueError: If age or visit is missing.
        """
        kwargs.pop("return_dict", None)
        if age is None or visit is None:
            raise ValueError(
                "ExMed-BERT embeds age and visit: pass age= and visit=, tensors shaped like input_ids"
                " (age in days)"
            )
        x = self.embeddings(input_ids, age, visit, kwargs.get("cu_seq_lens_q"))
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=x, attention_mask=attention_mask
        )
        for layer in self.layers:
            x = layer(x, mask, None, **kwargs)
        return BaseModelOutput(last_hidden_state=x)


class ExMedBertForMaskedLM(ExMedBertPreTrainedModel):
    """The encoder with a tied decoder over codes."""

    _tied_weights_keys = {"head.decoder.weight": "exmed_bert.embeddings.code.weight"}  # noqa: RUF012 -- transformers' own form

    def __init__(self, config: ExMedBertConfig) -> None:
        super().__init__(config)
        self.exmed_bert = ExMedBertModel(config)
        self.head = TokenHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder."""
        return self.head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder."""
        self.head.decoder = new_embeddings

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        **inputs: Any,  # noqa: ANN401 -- those of `ExMedBertModel`
    ) -> MaskedLMOutput:
        """Logits [B, L, V]; with labels (-100 where there is none) their mean cross-entropy."""
        logits = self.head(self.exmed_bert(input_ids=input_ids, **inputs).last_hidden_state)
        return MaskedLMOutput(loss=masked_loss(self.config, logits, labels), logits=logits)


BACKBONE, TOKEN = ExMedBertModel, ExMedBertForMaskedLM


def architecture(config: Any, size: Any, common: dict[str, Any]) -> ExMedBertConfig:  # noqa: ANN401
    """The configuration of a preset.

    Args:
        config: `ExMedBertModelConfig`; this file must not need it.
        size: Numbers of its size, overrides included.
        common: What every kind has: `vocab_size`, `true_vocab_size`, `pad_token_id`.
    """
    published = 0.1 if config.size == "paper" else 0.0
    dropout: dict[str, Any] = {
        name: published if getattr(config, name) is None else getattr(config, name)
        for name in ("dropout", "attention_dropout")
    }
    return ExMedBertConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=size.max_positions,
        entities=1 + len(config.entities),
        sexes=config.sexes,
        regions=config.regions,
        position=config.position,
        **dropout,
        **common,
    )
