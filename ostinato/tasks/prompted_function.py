"""A function that the prompt describes, at an argument that was asked for before it: what fixed memories can do with prompts.

    q  k_1 v_1  k_2 v_2 ... k_n v_n      ->  v_i with k_i = q, at the last place

The question comes first: a network with a memory of fixed size need not keep the whole function then, only the answer.
Petrov, Lamb, Paren, Torr, Bibi 2024, https://arxiv.org/abs/2406.01424, show weights of recurrent networks that do it
(`ostinato.analyze.lsrl.token_lookup`).
"""

import torch
from torch import Generator

from ostinato.registry import register
from ostinato.tasks.task import Batch, TokenTask, at_end, distinct, integers


@register("task:prompted_function_lookup", paper="lsrl")
class PromptedFunctionLookup(TokenTask):
    """A question, then the table of a function as pairs of an argument and a value: what is the value at the question?

    length: tokens of the table, an even number
    vocabulary: number of different tokens, which are arguments and values alike
    """

    shortest = 2

    def __init__(self, length: int = 16, *, vocabulary: int = 16):
        if vocabulary < 2:
            raise ValueError(f"vocabulary is the number of different tokens, at least 2; got {vocabulary}")
        self.vocab_size = self.answers = vocabulary
        super().__init__(length)

    def check_length(self, length: int) -> None:
        super().check_length(length)
        if length % 2 or length > 2 * self.vocab_size:
            raise ValueError(
                f"prompted_function_lookup has even lengths, up to {2 * self.vocab_size} with {self.vocab_size} tokens;"
                f" got {length}"
            )

    def draw(self, size: int, length: int, generator: Generator) -> Batch:
        keys = distinct(size, length // 2, self.vocab_size, generator)
        values = integers(0, self.vocab_size, keys.shape, generator)
        which = integers(0, length // 2, (size, 1), generator)
        table = torch.stack([keys, values], -1).flatten(1)
        return at_end(torch.cat([keys.gather(1, which), table], 1), values.gather(1, which)[:, 0])

    def solve(self, row: list[int]) -> dict[int, int]:
        question, *table = row
        return {len(table): dict(zip(table[::2], table[1::2]))[question]}
