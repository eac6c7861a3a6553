"""Many sequences that begin alike, read so that what several of them share is read once.

Sorted, sequences are the leaves of a tree whose edges are what is common to all below. A state is a value: after an edge it
is handed to every branch, and no branch can change it for another.
"""

from collections.abc import Callable, Iterator, Sequence

from ostinato.state import State

Read = Callable[[int, int, "State | None", Sequence[int]], State]
"""read(begin, end, state, indices): the state after tokens begin to end of any of these sequences, which all have them."""


def walk(sequences: Sequence[Sequence[int]], read: Read) -> Iterator[tuple[int, int, "State | None"]]:
    """Each sequence once: its index, how many of its tokens were read with others, and the state after those.

    What is left of it belongs to it alone, and is not read here. Equal sequences share all of their tokens.
    """
    order = sorted(range(len(sequences)), key=lambda i: list(sequences[i]))
    waiting: list[tuple[list[int], int, State | None]] = [(order, 0, None)] if order else []
    while waiting:
        group, depth, state = waiting.pop()
        if len(group) == 1:
            yield group[0], depth, state
            continue
        shared = common(sequences[group[0]], sequences[group[-1]])  # of a sorted group, what all have
        if shared > depth:
            state, depth = read(depth, shared, state, group), shared
        branches: dict[int, list[int]] = {}
        for i in group:
            if len(sequences[i]) == depth:
                yield i, depth, state
            else:
                branches.setdefault(sequences[i][depth], []).append(i)
        waiting += [(branch, depth, state) for branch in reversed(branches.values())]


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common from the beginning."""
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return min(len(a), len(b))
