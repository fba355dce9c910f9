"""
Branches of a conversation that is a tree: every edit and every new answer begins another one.

The branch that the user saw last is the conversation. Any other is a conversation of its own, named
by the first node that no branch before it has. Children are visited oldest first, so a branch that
grows, or that is branched again, still has its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eventstore.errors import InvalidInput

__all__ = ["Branch", "Node", "branches_of", "names_in"]


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a tree; `children` only gives their order, and may be empty."""

    parent: str | None
    children: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Branch:
    """
    A path from a root to a leaf.

    :ivar name: the node where it leaves the branches before it; None for the current branch.
    :ivar nodes: from the root on.
    """

    name: str | None
    nodes: Sequence[str]


def names_in(children: object) -> list[str]:
    """Return the names of nodes in what an export says of a node's children."""
    return [one for one in children if isinstance(one, str)] if isinstance(children, list) else []


def branches_of(
    nodes: Mapping[str, Node], current: str | None, *, every: bool = False
) -> list[Branch]:
    """
    Return the current branch, and with `every` the others after it.

    :param nodes: by id, oldest first.
    :param current: the last node of the current branch; None, or a node that is not there, takes
        the newest child of each node from the newest root on.
    :raises InvalidInput: a node is its own ancestor.
    """
    if not nodes:
        return [Branch(None, ())]
    children = _children(nodes)
    if current is None or current not in nodes:
        current = _newest_leaf(children)
    found = [Branch(None, _path(nodes, current))]
    if every:
        named = set(found[0].nodes)
        for leaf in _leaves(children):
            path = _path(nodes, leaf)
            own = [node for node in path if node not in named]
            if own:
                named.update(own)
                found.append(Branch(own[0], path))
    return found


def _children(nodes: Mapping[str, Node]) -> dict[str | None, list[str]]:
    """Return the children of every node, oldest first; the roots are those of None."""
    children: dict[str | None, list[str]] = {}
    for name, node in nodes.items():
        parent = node.parent if node.parent in nodes else None
        children.setdefault(parent, []).append(name)
    for parent, names in children.items():
        if parent is not None:
            places = {name: number for number, name in enumerate(nodes[parent].children)}
            names.sort(key=lambda name, places=places: places.get(name, len(places)))  # type: ignore[misc]  # mypy knows no default of a lambda
    return children


def _newest_leaf(children: Mapping[str | None, Sequence[str]]) -> str:
    if None not in children:
        raise _circle(next(names[0] for names in children.values()))
    leaf = children[None][-1]
    while leaf in children:
        leaf = children[leaf][-1]
    return leaf


def _leaves(children: Mapping[str | None, Sequence[str]]) -> list[str]:
    leaves: list[str] = []
    waiting = [*reversed(children.get(None, ()))]
    while waiting:
        node = waiting.pop()
        below = children.get(node)
        if below:
            waiting += reversed(below)
        else:
            leaves.append(node)
    return leaves


def _path(nodes: Mapping[str, Node], leaf: str) -> list[str]:
    path: dict[str, None] = {}
    node: str | None = leaf
    while node is not None and node in nodes:
        if node in path:
            raise _circle(node)
        path[node] = None
        node = nodes[node].parent
    return [*path][::-1]


def _circle(node: str) -> InvalidInput:
    return InvalidInput(f"node {node!r}", "is its own ancestor, so no conversation leads to it")
