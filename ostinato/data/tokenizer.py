"""Text to numbers and back: bytes, or byte-level byte-pair encoding (BPE).

    decode(encode(text)) == text for every string that UTF-8 can hold
    b"".join(pieces[i] for i in encode(text)) == text in UTF-8

`pieces` is the table of what each token stands for, in bytes. It is all that decoding needs, and its lengths turn a
loss per token into bits per byte, which compares models with different tokenizers.

BPE: Sennrich, Haddow, Birch 2016, https://arxiv.org/abs/1508.07909; over bytes, Radford et al. 2019 (GPT-2). The
`tokenizers` library trains and encodes.
"""

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from ostinato.files import write_atomically

FILE = "tokenizer.json"
PIECE = 1 << 16  # bytes that are encoded at once: a document of any length needs little memory
# What tokenizers are known to change: spaces at the ends and between words, line ends, compositions, look-alikes, case.
PROBE = "A\n\tna\u00efve  \u65e5\u672c e\u0301 \ufb01 \u00c5\u212b \U0001f3b5\r\n<|endoftext|> x\x00."


class Tokenizer(ABC):
    """What all tokenizers share: everything that follows from `pieces`."""

    pieces: list[bytes]
    """The bytes that each token stands for."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens; their numbers are 0 to vocab_size - 1."""
        return len(self.pieces)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """How many bytes each token stands for."""
        return np.array([len(piece) for piece in self.pieces], np.int64)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text, int64."""
        try:
            data = np.frombuffer(text.encode(), np.uint8)
        except UnicodeEncodeError as error:
            wrong = text[error.start]
            raise ValueError(f"character {error.start} is {wrong!r}, half of a pair, which UTF-8 cannot hold") from None
        parts = self.encode_many([data[i:j].tobytes() for i, j in cut(data, 0, len(data))])
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of some tokens. Bytes that are not UTF-8, as a model may write them, become U+FFFD."""
        numbers = ids.tolist() if isinstance(ids, np.ndarray) else ids
        return b"".join(self._piece(i) for i in numbers).decode(errors="replace")

    def stream(self) -> "StreamDecoder":
        """A decoder that takes one token at a time."""
        return StreamDecoder(self)

    @abstractmethod
    def encode_many(self, parts: Sequence[bytes]) -> list[np.ndarray]:
        """The tokens of several pieces of UTF-8."""

    @abstractmethod
    def to_json(self) -> str:
        """All that there is to save; the same tokenizer always gives the same text."""

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, from which `load_tokenizer(folder)` makes this tokenizer again."""
        write_atomically(Path(folder) / FILE, self.to_json())

    def _piece(self, token: SupportsIndex) -> bytes:
        token = index(token)
        if not 0 <= token < len(self.pieces):
            raise ValueError(f"token {token} is not in this vocabulary; it has 0 to {len(self.pieces) - 1}")
        return self.pieces[token]


class StreamDecoder:
    """Decodes one token at a time and holds bytes back until they are whole characters."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: SupportsIndex) -> str:
        """The characters that this token completes, perhaps none."""
        return self._decoder.decode(self._tokenizer._piece(token))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that was not completed, otherwise nothing."""
        return self._decoder.decode(b"", final=True)


class ByteTokenizer(Tokenizer):
    """The 256 bytes are the tokens; there are no others."""

    def __init__(self) -> None:
        self.pieces = [bytes([byte]) for byte in range(256)]

    def encode_many(self, parts: Sequence[bytes]) -> list[np.ndarray]:
        return [np.frombuffer(part, np.uint8).astype(np.int64) for part in parts]

    def to_json(self) -> str:
        return json.dumps({"ostinato": "bytes"})


class BPETokenizer(Tokenizer):
    """Byte-level BPE: every byte is a token, and so is every frequent sequence of bytes within a word.

    json: the content of a tokenizer.json of the `tokenizers` library
    """

    def __init__(self, json: str):
        import tokenizers

        try:
            self._backend = tokenizers.Tokenizer.from_str(json)
        except Exception as error:  # the library raises Exception itself
            raise ValueError(f"not a tokenizer ({error})") from None
        self.pieces = _pieces_of(self._backend)
        # What a file may ask for beyond plain encoding would cut, pad, decorate or vary the text.
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        self._backend.model.dropout = None
        for text in (PROBE, f" {PROBE} "):
            if (back := self.decode(self.encode(text))) != text:
                raise ValueError(f"the tokenizer changes text: {text!r} comes back as {back!r}")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "BPETokenizer":
        """Learn merges from texts. The same texts, in any order, give the same tokenizer.

        vocab_size: number of tokens; there are fewer if the texts are too short to have so many frequent sequences
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        if vocab_size <= 256:
            raise ValueError(f"a byte-level BPE vocabulary is larger than the 256 bytes; got {vocab_size}")
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=sorted(byte_symbols()), special_tokens=[], show_progress=False
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend.to_str())

    def encode_many(self, parts: Sequence[bytes]) -> list[np.ndarray]:
        texts = [str(part, "utf-8") for part in parts]
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.int64) for encoding in encodings]

    def to_json(self) -> str:
        return self._backend.to_str()


def load_tokenizer(source: str | Path, size: int | None = None) -> Tokenizer:
    """The tokenizer called "bytes", or one saved in a folder or a tokenizer.json.

    size: tokens of the model that it is for, where there may be more of them; those that nobody uses stand for nothing
    """
    tokenizer = _load(source)
    tokenizer.pieces = tokenizer.pieces + [b""] * ((size or 0) - len(tokenizer.pieces))
    return tokenizer


def _load(source: str | Path) -> Tokenizer:
    if str(source) == "bytes":
        return ByteTokenizer()
    path = Path(source).expanduser()
    path = path / FILE if path.is_dir() else path
    if recipe(source) is not None:
        raise ValueError(f"{source} is a tokenizer to be trained on a corpus; load the one that was saved after it")
    if not path.is_file():
        accepted = f"'bytes', 'bpe:4096', 'words', or a folder with {FILE}"
        raise FileNotFoundError(f"no tokenizer '{source}'; a tokenizer is {accepted}")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if content == {"ostinato": "bytes"}:
            return ByteTokenizer()
        if isinstance(content, dict) and (content.get("model") or {}).get("type") == "WordLevel":
            from ostinato.data.words import WordTokenizer

            return WordTokenizer(text)
        return BPETokenizer(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


class Recipe(NamedTuple):
    """A tokenizer that is to be trained: "bpe:4096", "words" or "words:10000"."""

    kind: str
    size: int | None

    def __str__(self) -> str:
        return self.kind if self.size is None else f"{self.kind}:{self.size}"

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """The tokenizer that these texts give."""
        if self.kind == "words":
            from ostinato.data.words import WordTokenizer

            return WordTokenizer.train(texts, self.size)
        assert self.size is not None
        return BPETokenizer.train(texts, self.size)


def recipe(spec: Any) -> Recipe | None:
    """What "bpe:4096", "words" or "words:10000" asks for; None for what does not begin like one of them."""
    name, colon, size = str(spec).partition(":")
    if name not in ("bpe", "words") or (not colon and Path(str(spec)).exists()):
        return None
    if name == "words" and not colon:
        return Recipe(name, None)
    if name == "words" and not (size.isdecimal() and int(size) >= 3):
        raise ValueError(
            f"'{spec}' is not a tokenizer; words:N needs a vocabulary size N of at least 3, as in words:10000"
        )
    if name == "bpe" and not (size.isdecimal() and int(size) > 256):
        raise ValueError(f"'{spec}' is not a tokenizer; bpe:N needs a vocabulary size N above 256, as in bpe:4096")
    return Recipe(name, int(size))


def cut(data: np.ndarray, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Where to cut a long document into short pieces: after a line, or else between characters."""
    while end - begin > PIECE:
        piece = data[begin : begin + PIECE + 1].tobytes()
        size = piece.rfind(b"\n", PIECE // 2, PIECE) + 1
        if not size:
            size = PIECE
            while piece[size] & 0xC0 == 0x80:  # the next piece would begin inside a character
                size -= 1
        yield begin, begin + size
        begin += size
    if begin < end:
        yield begin, end


def byte_symbols() -> dict[str, int]:
    """How a byte-level vocabulary writes each byte: as its character if that is visible, or one from U+0100 on."""
    visible = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("\xa1"), ord("\xac") + 1),
        *range(ord("\xae"), ord("\xff") + 1),
    }
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + n): byte for n, byte in enumerate(hidden)}


def _pieces_of(backend: Any) -> list[bytes]:
    symbols = byte_symbols()
    vocabulary = backend.get_vocab(with_added_tokens=True)
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    if type(backend.model).__name__ != "BPE" or not symbols.keys() <= vocabulary.keys():
        raise ValueError("only byte-level BPE is accepted, with a token for each of the 256 bytes")
    pieces = [b""] * (max(vocabulary.values()) + 1)
    for token, number in vocabulary.items():
        if token in added:
            pieces[number] = token.encode()
        elif symbols.keys() >= set(token):
            pieces[number] = bytes(symbols[symbol] for symbol in token)
        else:
            raise ValueError(f"only byte-level BPE is accepted, and token {token!r} is not written in its alphabet")
    return pieces
