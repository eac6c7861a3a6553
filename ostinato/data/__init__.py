"""What is learned from: documents from files, tokens, and batches of them with an exact position.

corpus = prepare("notes/", tokenizer="bytes")
batches = Batches(corpus.train, batch_size=8, length=256)
batch, position = batches(None)
batch, position = batches(position)
"""

from ostinato.data.batches import IGNORE, Batch, Batches, EvaluationBatch, sequential
from ostinato.data.corpus import Corpus, prepare
from ostinato.data.sources import documents
from ostinato.data.store import TokenStore
from ostinato.data.streams import Streams
from ostinato.data.tokenizer import BPETokenizer, ByteTokenizer, StreamDecoder, Tokenizer, load_tokenizer

__all__ = [
    "IGNORE",
    "BPETokenizer",
    "Batch",
    "Batches",
    "ByteTokenizer",
    "Corpus",
    "EvaluationBatch",
    "StreamDecoder",
    "Streams",
    "TokenStore",
    "Tokenizer",
    "documents",
    "load_tokenizer",
    "prepare",
    "sequential",
]
