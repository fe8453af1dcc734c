"""What of a graph is there, what is to be made, and what a change makes anew."""

from collections.abc import Collection
from pathlib import Path

from workflow.graph import Graph


def to_make(graph: Graph, store: Path) -> Graph:
    """The nodes that are to be made: those that are not there, and that something asks for.

    What is there needs nothing of what it was made from: that may be gone.

    Args:
        graph: All of them; what no node is made from is asked for.
        store: Where they lie.
    """
    used = {one for node in graph.values() for one in node.inputs}
    asked = [one for one in graph if one not in used]
    wanted: set[str] = set()
    while asked:
        one = asked.pop()
        if one not in wanted and not graph[one].is_done(store):
            wanted.add(one)
            asked += graph[one].inputs
    return {one: node for one, node in graph.items() if one in wanted}


def made_anew(before: Graph, after: Graph) -> list[str]:
    """What a change makes: the ids that are in one graph and were not in the other."""
    return [one for one in after if one not in before]


def failed(graph: Graph, store: Path) -> Graph:
    """Of nodes that were to be made: those that are not there, though all that they are made from is."""
    return {
        one: node
        for one, node in graph.items()
        if not node.is_done(store)
        and all(graph[i].is_done(store) for i in node.inputs if i in graph)
    }


def models_of(nodes: Graph) -> Collection[str]:
    """The models that nodes are of alone; a node that is of all is of none."""
    return {node.model for node in nodes.values() if node.model}
