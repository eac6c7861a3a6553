"""Tasks that are about places: attention that knows distances only through its scores cannot tell where a token stands.

    identify    w_1 ... w_T  ->  1, 2, ..., T                                  each token says its place
    even        w_1 ... w_T  ->  w_2, w_4, ..., end, ..., end                  the tokens at even places, in front

A softmax over equal tokens gives the same mean wherever they stand, whatever is added to its scores: with `same`, every
token of a problem is equal, and who has nothing but such attention is right at one place of T. The tokens at even places
come later than where they are asked for, so that this kind is for models that see the whole sequence.

Luo, Li, Zheng, Liu, Wang, He 2022, https://arxiv.org/abs/2205.13401, whose two tasks these are; `same` is the input of its
proof.
"""

import torch
from torch import Generator, Tensor

from ostinato.registry import did_you_mean, register
from ostinato.tasks.task import Batch, TokenTask, integers

KINDS = ("identify", "even")


@register("task:position_sensitive", paper="urpe")
class PositionSensitive(TokenTask):
    """Where does each token stand, or which tokens stand at even places?

    length: number of tokens
    kind: "identify" asks every token for its place; "even" asks for the tokens at even places
    vocabulary: number of different tokens of a problem
    longest: number of places that have a name, for problems longer than those of training; by default twice the length
    same: whether all tokens of a problem are equal
    """

    shortest = 2

    def __init__(
        self,
        length: int = 16,
        *,
        kind: str = "identify",
        vocabulary: int = 32,
        longest: int | None = None,
        same: bool = False,
    ):
        if kind not in KINDS:
            raise ValueError(f"kind is {' or '.join(KINDS)}; got {kind!r}{did_you_mean(kind, KINDS)}")
        if vocabulary < 2:
            raise ValueError(f"vocabulary is at least 2 different tokens; got {vocabulary}")
        self.kind_of_question, self.vocabulary, self.same = kind, vocabulary, same
        self.longest = 2 * length if longest is None else longest
        self.answers = length if kind == "identify" else vocabulary + 1
        self.vocab_size = max(vocabulary, self.longest) if kind == "identify" else vocabulary + 1
        super().__init__(length)

    @property
    def chance(self) -> float:  # type: ignore[override]
        return 0.5 if self.kind_of_question == "even" else super().chance

    def check_length(self, length: int) -> None:
        super().check_length(length)
        if self.kind_of_question == "identify" and length > self.longest:
            raise ValueError(f"{self._name} has names for {self.longest} places; a length of {length} needs more")

    def draw(self, size: int, length: int, generator: Generator) -> Batch:
        tokens = integers(0, self.vocabulary, (size, 1 if self.same else length), generator).expand(size, length)
        tokens = tokens.contiguous()
        return Batch(tokens, self._answers(tokens), torch.ones_like(tokens, dtype=torch.bool))

    def _answers(self, tokens: Tensor) -> Tensor:
        if self.kind_of_question == "identify":
            return torch.arange(tokens.shape[1]).expand_as(tokens).contiguous()
        even = tokens[:, 1::2]
        end = torch.full_like(tokens[:, even.shape[1] :], self.vocabulary)
        return torch.cat([even, end], 1)

    def solve(self, row: list[int]) -> dict[int, int]:
        if self.kind_of_question == "identify":
            return {place: place for place in range(len(row))}
        return {place: row[2 * place + 1] if 2 * place + 1 < len(row) else self.vocabulary for place in range(len(row))}
