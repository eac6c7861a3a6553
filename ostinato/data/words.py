"""Text to words: every word of a vocabulary is a token, the end of a line is one, and one stands for all other words.

    "the cat sat\\n"  ->  the, cat, <unk>, \\n  ->  " the cat <unk>\\n"

What is between words comes back as one blank, and before a line end as nothing: this is for text that is prepared in words,
like Penn Treebank and WikiText. The `tokenizers` library trains and encodes; tokenizer.json is its own.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from ostinato.data.tokenizer import Tokenizer

UNKNOWN, LINE_END = "<unk>", "\n"


class WordTokenizer(Tokenizer):
    """The most frequent words of a text are the tokens.

    json: the content of a tokenizer.json of the `tokenizers` library, with a model of the type WordLevel
    """

    def __init__(self, json: str):
        import tokenizers

        try:
            self._backend = tokenizers.Tokenizer.from_str(json)
        except Exception as error:  # the library raises Exception itself
            raise ValueError(f"not a tokenizer ({error})") from None
        words = self._backend.get_vocab()
        if not {UNKNOWN, LINE_END} <= words.keys() or sorted(words.values()) != list(range(len(words))):
            raise ValueError("a vocabulary of words has the tokens '<unk>' and '\\n', and numbers without gaps")
        expected = [word if word in words else UNKNOWN for word in ("a", "b", LINE_END, "c")]
        if self._backend.normalizer is not None or self._backend.encode("a \t b\nc").tokens != expected:
            raise ValueError("a tokenizer of words cuts text at blanks and line ends, and changes nothing")
        self._backend.no_truncation()
        self._backend.no_padding()
        self.pieces = [b""] * len(words)
        for word, number in words.items():
            self.pieces[number] = word.encode() if word == LINE_END else f" {word}".encode()

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int | None = None) -> "WordTokenizer":
        """Count the words of texts. The same texts, in any order, give the same tokenizer.

        vocab_size: number of tokens, of which two stand for the end of a line and for all other words; None for all words
        """
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

        if vocab_size is not None and vocab_size < 3:
            raise ValueError(f"a vocabulary of words has at least 3 tokens; got {vocab_size}")
        backend = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(LINE_END, "isolated"),
                pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed"),
            ]
        )
        trainer = trainers.WordLevelTrainer(vocab_size=1 << 31, special_tokens=[], show_progress=False)
        backend.train_from_iterator(texts, trainer)
        found = backend.get_vocab()
        order = sorted(found, key=found.__getitem__)  # the most frequent first
        needed = [UNKNOWN, LINE_END]
        others = [word for word in order if word not in needed][
            : None if vocab_size is None else vocab_size - len(needed)
        ]
        kept = {*needed, *others}
        words = [word for word in order if word in kept] + [word for word in needed if word not in found]
        backend.model = models.WordLevel({word: number for number, word in enumerate(words)}, UNKNOWN)
        return cls(backend.to_str())

    def encode_many(self, parts: Sequence[bytes]) -> list[np.ndarray]:
        encodings = self._backend.encode_batch_fast([str(part, "utf-8") for part in parts], add_special_tokens=False)
        return [np.array(encoding.ids, np.int64) for encoding in encodings]

    def to_json(self) -> str:
        return self._backend.to_str()
