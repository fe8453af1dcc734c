"""Where the blocks of a model are, whatever its kind calls them."""

from torch import nn
from transformers import PreTrainedModel


def stacks(backbone: nn.Module) -> dict[str, nn.ModuleList]:
    """The lists of modules of a backbone that lie in no other such list, by name.

    Examples:
        >>> inner = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)])])
        >>> [*stacks(nn.ModuleDict({"embeds": nn.Embedding(3, 2), "layers": inner}))]
        ['layers']
    """
    found = {n: m for n, m in backbone.named_modules() if isinstance(m, nn.ModuleList)}
    return {
        name: stack
        for name, stack in found.items()
        if not any(name.startswith(f"{other}.") for other in found)
    }


def blocks(backbone: PreTrainedModel) -> nn.ModuleList:
    """The list of a backbone's layers; an empty one where it has no such list."""
    n = backbone.config.num_hidden_layers
    found = (stack for stack in stacks(backbone).values() if len(stack) == n)
    return next(found, nn.ModuleList())
