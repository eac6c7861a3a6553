"""The state of a model where transformers keeps a cache of keys and values."""

from typing import Any

from torch import Tensor
from transformers import Cache

from ostinato import state as states
from ostinato.state import State


class OstinatoCache(Cache):
    """What a model remembers of the tokens that it has read: a state, which each forward pass replaces.

    A state is a value, so ``copy.copy(cache)`` keeps a point to which one can return. To forget the last tokens is not
    possible: a recurrence does not know what it was before them.

    state: after the tokens read so far; None at the beginning
    seen: how many those are, padding too
    """

    state: Any

    def __init__(self, state: State | None = None, seen: int = 0):
        super().__init__(layers=[])
        self.state, self.seen = state, seen

    def __repr__(self) -> str:
        return f"OstinatoCache(seen={self.seen}, bytes={states.nbytes(self.state)})"

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.seen

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        return self.state is not None

    @property
    def batch_size(self) -> int:
        return -1 if self.state is None else len(next(states.leaves(self.state)))

    @property
    def is_initialized(self) -> bool:
        return self.state is not None

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_croppable(self) -> bool:
        return False

    def reset(self) -> None:
        self.state, self.seen = None, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row beam_idx[i] was."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.state is not None:
            self.state = states.select(self.state, indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.state is not None:
            self.state = states.map_state(lambda leaf: leaf.repeat_interleave(repeats, 0), self.state)

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove:
            raise ValueError(
                "a state cannot forget its last tokens, as speculative decoding asks for: keep copy.copy(cache) instead"
            )

    def activate_past_recording(self) -> None:
        raise ValueError(
            "a state cannot be rolled back, as speculative decoding asks for: keep copy.copy(cache) instead"
        )
