"""The kinds of models: a folder and a line each.

Whatever lists, builds, loads, trains or reads models takes what it needs from this table, so that a
kind is spelled nowhere else. `docs/extend.md` adds one.
"""

from ehr_models.kinds.behrt import BEHRT
from ehr_models.kinds.bert import BERT
from ehr_models.kinds.chrono import CHRONO
from ehr_models.kinds.exmed_bert import EXMED_BERT
from ehr_models.kinds.gpt2 import GPT2
from ehr_models.kinds.gpt2_moe import GPT2_MOE
from ehr_models.kinds.hyena import HYENA
from ehr_models.kinds.llama import LLAMA
from ehr_models.kinds.mamba2 import MAMBA2
from ehr_models.kinds.mistral import MISTRAL
from ehr_models.kinds.modernbert import MODERNBERT
from ehr_models.kinds.qwen3 import QWEN3
from ehr_models.kinds.record import Kind

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *(BEHRT, EXMED_BERT, GPT2, GPT2_MOE, BERT, MODERNBERT),
        *(LLAMA, QWEN3, MISTRAL, CHRONO, MAMBA2, HYENA),
    )
}
