"""Chorales, and other music for several voices at once: which notes sound next?

    piano roll   x_t in {0, 1}^N, one number for each pitch;   -log p(x_{t+1} | x_1 ... x_t) = sum_n cross-entropy of note n
    voices       s_1 a_1 t_1 b_1 s_2 a_2 t_2 b_2 ...           -log p(token | all before it), soprano first at each step

The first is measured in nats for each step of time, over all steps of all pieces but the first ones, which nothing foretells;
the second in nats for each token. Neither can be computed from the other.

    {"train": [piece, ...], "valid": [...], "test": [...]}     piece: [[74, 70, 65, 58], ...]: the MIDI pitches of each step

Boulanger-Lewandowski, Bengio, Vincent 2012, https://arxiv.org/abs/1206.6392: piano rolls of J. S. Bach's chorales, of folk tunes
(Nottingham), MuseData and Piano-midi, and how they are split; Chung, Gulcehre, Cho, Bengio 2014,
https://arxiv.org/abs/1412.3555, and Bai, Kolter, Koltun 2018, https://arxiv.org/abs/1803.01271, compare networks by them.
Huang et al. 2018, https://arxiv.org/abs/1809.04281 (Music Transformer): voices one after another, in steps of a sixteenth
note. The files are not here.
"""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ostinato.registry import register
from ostinato.tasks.task import Batch

Piece = list[list[int]]
SPLITS = ("train", "valid", "test")
REST = 0


@dataclass(frozen=True)
class Music:
    """Pieces, split.

    train, valid, test: pieces; a piece holds the pitches of each step
    lowest: MIDI pitch of the first number of a piano roll
    highest: that of the last
    """

    train: list[Piece]
    valid: list[Piece]
    test: list[Piece]
    lowest: int = 21
    highest: int = 108

    @property
    def width(self) -> int:
        """How many notes a piano roll has."""
        return self.highest - self.lowest + 1

    @property
    def vocab_size(self) -> int:
        """How many tokens voices have: the notes, and the rest, which is 0."""
        return self.width + 1

    def roll(self, piece: Piece) -> Tensor:
        """Which notes sound at each step: (T, width), 0 or 1."""
        roll = torch.zeros(len(piece), self.width)
        for step, pitches in zip(roll, piece, strict=True):
            step[torch.tensor(pitches, dtype=torch.long) - self.lowest] = 1
        return roll

    def batch(self, pieces: Sequence[Piece]) -> Batch:
        """Piano rolls to predict, each step from those before it; shorter ones have zeros after them, which are not scored."""
        if not pieces or min(len(piece) for piece in pieces) < 2:
            raise ValueError(
                "a batch has at least one piece, and a piece at least 2 steps, of which the first is no target"
            )
        rolls = [self.roll(piece) for piece in pieces]
        filled = torch.nn.utils.rnn.pad_sequence(rolls, batch_first=True)
        lengths = torch.tensor([len(piece) - 1 for piece in pieces])
        scored = torch.arange(filled.shape[1] - 1) < lengths[:, None]
        return Batch(filled[:, :-1], filled[:, 1:], scored)

    def voices(self, piece: Piece, number: int = 4) -> Tensor:
        """The tokens of a piece, in the order of the file at each step: (T * number,).

        number: voices; where fewer sound, the last ones rest
        """
        if many := [step for step, pitches in enumerate(piece) if len(pitches) > number]:
            raise ValueError(
                f"at most {number} voices sound at once; at step {many[0]} there are {len(piece[many[0]])}"
            )
        tokens = torch.full((len(piece), number), REST)
        for step, pitches in zip(tokens, piece, strict=True):
            step[: len(pitches)] = torch.tensor(pitches, dtype=torch.long) - self.lowest + 1
        return tokens.flatten()

    def piece(self, tokens: Sequence[int] | Tensor, number: int = 4) -> Piece:
        """The pitches of each step that tokens stand for: `voices` the other way."""
        rows = torch.as_tensor(tokens).view(-1, number).tolist()
        return [[token - 1 + self.lowest for token in row if token != REST] for row in rows]


def nats_per_step(outputs: Tensor, batch: Batch) -> Tensor:
    """The mean over scored steps of -log p of all notes together.

    outputs: (B, T, width) logits of the notes that sound next
    """
    each = binary_cross_entropy_with_logits(outputs.float(), batch.targets.to(outputs.device), reduction="none").sum(-1)
    return each[batch.scored.to(outputs.device)].mean()


@register("task:jsb_chorales", paper=("music_transformer", "gated_rnn_evaluation"))
def jsb_chorales(file: str | Path, *, lowest: int = 21, highest: int = 108) -> Music:
    """Read chorales, or other music in several voices, with its split.

    file: .json or .json.gz
    lowest: the smallest MIDI pitch that may occur
    highest: the largest
    """
    file = Path(file)
    try:
        data = file.read_bytes()
        content = json.loads(gzip.decompress(data) if file.suffix == ".gz" else data)
        train, valid, test = (
            [[[int(pitch) for pitch in step] for step in piece] for piece in content[split]] for split in SPLITS
        )
    except FileNotFoundError:
        raise FileNotFoundError(f"no music in {file}") from None
    except (ValueError, OSError, EOFError, KeyError, TypeError):
        raise ValueError(
            f"{file} is no music: a JSON object with {', '.join(SPLITS)}, each pieces of steps of pitches"
        ) from None
    pitches = {pitch for pieces in (train, valid, test) for piece in pieces for step in piece for pitch in step}
    if outside := sorted(pitch for pitch in pitches if not lowest <= pitch <= highest):
        raise ValueError(f"pitches are {lowest} to {highest} here; {file} has {outside[0]}")
    return Music(train, valid, test, lowest, highest)
