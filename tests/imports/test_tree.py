"""A tree is read along its current branch, and every other branch is one conversation."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventstore.imports.chatgpt import read_chatgpt
from eventstore.imports.tree import Branch, Node, branches_of
from tests.imports.samples import chatgpt_message, chatgpt_node


@st.composite
def trees(draw: st.DrawFn) -> dict[str, str | None]:
    """Return the parents of nodes; a node comes after its parent."""
    size = draw(st.integers(1, 25))
    parents: dict[str, str | None] = {"n0": None}
    for number in range(1, size):
        parents[f"n{number}"] = f"n{draw(st.integers(0, number - 1))}"
    return parents


def path_to(parents: dict[str, str | None], node: str | None) -> list[str]:
    return [] if node is None else [*path_to(parents, parents[node]), node]


def leaves_of(parents: dict[str, str | None]) -> list[str]:
    return [node for node in parents if node not in parents.values()]


def nodes_of(parents: dict[str, str | None]) -> dict[str, Node]:
    return {
        name: Node(parent, [one for one, above in parents.items() if above == name])
        for name, parent in parents.items()
    }


@given(trees(), st.data())
def test_the_current_branch_of_an_export_is_exactly_the_path_to_the_current_node(
    parents: dict[str, str | None], data: st.DataObject
) -> None:
    current = data.draw(st.sampled_from([*parents]))
    order = data.draw(st.permutations([*parents]))
    silent = data.draw(st.sets(st.sampled_from([*parents])))
    mapping = {
        name: chatgpt_node(
            name,
            parents[name],
            list(nodes_of(parents)[name].children),
            None if name in silent else chatgpt_message("user", name),
        )
        for name in order
    }

    (read,) = read_chatgpt({"id": "x", "current_node": current, "mapping": mapping})

    assert [one.body["content"] for one in read.messages] == [
        name for name in path_to(parents, current) if name not in silent
    ]


@given(trees(), st.data())
def test_every_leaf_is_the_end_of_exactly_one_branch_and_names_differ(
    parents: dict[str, str | None], data: st.DataObject
) -> None:
    current = data.draw(st.sampled_from(leaves_of(parents)))

    found = branches_of(nodes_of(parents), current, every=True)

    assert found[0] == Branch(None, path_to(parents, current))
    assert sorted(one.nodes[-1] for one in found) == sorted(leaves_of(parents))
    assert all(one.nodes == path_to(parents, one.nodes[-1]) for one in found)
    assert len({one.name for one in found}) == len(found)


@given(trees(), st.data())
def test_a_branch_keeps_its_name_and_its_beginning_when_the_tree_grows(
    parents: dict[str, str | None], data: st.DataObject
) -> None:
    current = data.draw(st.sampled_from(leaves_of(parents)))
    before = branches_of(nodes_of(parents), current, every=True)
    grown = dict(parents)
    for number in range(data.draw(st.integers(1, 8))):
        grown[f"more{number}"] = data.draw(st.sampled_from([*grown]))
    below = {leaf: path_to(grown, leaf) for leaf in leaves_of(grown)}
    # The user goes on where they were, and the oldest child continues a branch.
    continued = next(leaf for leaf, path in below.items() if current in path)

    after = {one.name: one.nodes for one in branches_of(nodes_of(grown), continued, every=True)}

    for one in before:
        assert list(after[one.name][: len(one.nodes)]) == list(one.nodes)


def test_without_a_current_node_the_newest_children_are_followed() -> None:
    nodes = {"a": Node(None, ["c", "b"]), "b": Node("a"), "c": Node("a"), "d": Node("c")}

    for current in (None, "gone"):
        assert branches_of(nodes, current) == [Branch(None, ["a", "b"])]


def test_a_parent_that_is_missing_begins_a_conversation() -> None:
    assert branches_of({"b": Node("gone")}, "b") == [Branch(None, ["b"])]
    assert branches_of({}, None) == [Branch(None, ())]
