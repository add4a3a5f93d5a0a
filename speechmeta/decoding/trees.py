"""Token trees: everything that may follow in a place of the answer, in one forward pass.

A tree holds the fixed text up to the next choice and a branch for every option; under each
branch it may hold the next field's tree, and so on, as long as it stays small. Trees belong to
the grammar alone, so they are built once and reused by all records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from speechmeta.decoding.grammar import Grammar, Option, TranscriptStart
from speechmeta.decoding.labels import common_prefix

ROOT = -1
"""The node before the tree: the last token that is fed ahead of it."""


@dataclass
class LabelStep:
    """A field of a closed set at some node of a tree.

    Attributes:
        index: of the field.
        options: the ways to write its values.
        paths: by option, the nodes of its tokens but the last, which ends the value.
        edges: by option, the numbers of the tree's edges whose log probabilities add up to
            its score.
        following: by option, the node of the last token and the step after it, where the
            tree goes on.
    """

    index: int
    options: tuple[Option, ...]
    paths: list[list[int]] = field(default_factory=list)
    edges: list[list[int]] = field(default_factory=list)
    following: list[tuple[int, Step] | None] = field(default_factory=list)


@dataclass
class TranscriptStep:
    """The transcript's start at some node of a tree.

    Attributes:
        start: the fixed text before it.
        path: the nodes of that text.
        rivals: by held token, the edges of the token and of the entries that may replace it.
        best: the number of the request for the first token.
    """

    start: TranscriptStart
    path: list[int]
    rivals: list[list[tuple[int, int]]]
    best: int


Step = LabelStep | TranscriptStep


class Tree:
    """Tokens with their parents, and what is to be read off them.

    Attributes:
        tokens, parents: by node; a parent comes before its children, `ROOT` before all.
        edges: (node, token) pairs whose log probability is asked for.
        best: nodes after which the best allowed token is asked for.
        entry: the first step.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.edges: list[tuple[int, int]] = []
        self.best: list[int] = []
        self.entry: Step
        self._nodes: dict[tuple[int, int], int] = {}
        self._edges: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, parent: int, token: int) -> int:
        """The node of a token after a node."""
        key = (parent, token)
        if key not in self._nodes:
            self._nodes[key] = len(self.tokens)
            self.tokens.append(token)
            self.parents.append(parent)
        return self._nodes[key]

    def path(self, parent: int, tokens: Sequence[int]) -> list[int]:
        """The nodes of tokens after a node."""
        nodes = []
        for token in tokens:
            parent = self.add(parent, token)
            nodes.append(parent)
        return nodes

    def edge(self, node: int, token: int) -> int:
        """The number of the request for a token's log probability after a node."""
        key = (node, token)
        if key not in self._edges:
            self._edges[key] = len(self.edges)
            self.edges.append(key)
        return self._edges[key]

    @cached_property
    def seen(self) -> np.ndarray:
        """bool (nodes, nodes): whether the second is the first or an ancestor of it."""
        seen = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent != ROOT:
                seen[node] |= seen[parent]
        return seen

    @cached_property
    def depths(self) -> np.ndarray:
        """(nodes,) long: tokens from the root, 0 for the first."""
        depths: np.ndarray = self.seen.sum(-1) - 1
        return depths


class Forest:
    """The trees of one grammar, each built when it is first needed.

    Args:
        grammar: the grammar.
        limit: most nodes of a tree that goes beyond one field.
    """

    def __init__(self, grammar: Grammar, limit: int) -> None:
        self._grammar = grammar
        self._limit = limit
        self._trees: dict[tuple[int, int | None], Tree] = {}

    def tree(self, index: int, consumed: int | None) -> Tree:
        """The tree at the index-th field; arguments as for `Grammar.options`."""
        key = (index, consumed)
        if key not in self._trees:
            best = self._build(index, consumed, 1)
            for depth in range(2, len(self._grammar.fields) - index + 1):
                larger = self._build(index, consumed, depth)
                if len(larger) > self._limit:
                    break
                best = larger
            self._trees[key] = best
        return self._trees[key]

    def _build(self, index: int, consumed: int | None, depth: int) -> Tree:
        tree = Tree()
        tree.entry = self._step(tree, ROOT, index, consumed, depth)
        return tree

    def _step(self, tree: Tree, parent: int, index: int, consumed: int | None, depth: int) -> Step:
        grammar = self._grammar
        if grammar.fields[index] == "Transcript":
            return _transcript(tree, parent, grammar.transcript_start(consumed))
        options = grammar.options(index, consumed)
        step = option_step(tree, parent, index, options)
        for option, nodes in zip(options, step.paths, strict=True):
            over = index + 1 == len(grammar.fields) or grammar.ends_record(
                grammar.fields[index], option.label
            )
            if over or depth == 1:
                step.following.append(None)
                continue
            last = tree.add(nodes[-1] if nodes else parent, option.tokens[-1])
            following = self._step(tree, last, index + 1, option.consumed, depth - 1)
            step.following.append((last, following))
        return step


def option_step(tree: Tree, parent: int, index: int, options: tuple[Option, ...]) -> LabelStep:
    """Adds the options of a field after a node; the last tokens are not added but asked for."""
    step = LabelStep(index, options)
    shared = common_prefix(options)
    for option in options:
        nodes = tree.path(parent, option.tokens[:-1])
        before = [parent, *nodes]
        step.paths.append(nodes)
        step.edges.append(
            [
                tree.edge(before[place], option.tokens[place])
                for place in range(shared, len(option.tokens))
            ]
        )
    return step


def _transcript(tree: Tree, parent: int, start: TranscriptStart) -> TranscriptStep:
    nodes = tree.path(parent, start.tokens)
    before = [parent, *nodes]
    first = len(start.tokens) - start.held
    rivals = []
    for place, healing in enumerate(start.healing, start=first):
        tokens = [start.tokens[place], *healing]
        rivals.append([(token, tree.edge(before[place], token)) for token in tokens])
    tree.best.append(before[-1])
    return TranscriptStep(start, nodes, rivals, len(tree.best) - 1)
