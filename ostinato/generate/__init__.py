"""How a trained model writes: drawing tokens, decoding as a fold over states, and texts that can be put away and resumed."""

from ostinato.generate.compiled import compile_step
from ostinato.generate.decode import prefill, stream
from ostinato.generate.sampling import FILTERS, Sampler
from ostinato.generate.session import Session, begin, ended, load, save, write

__all__ = [
    "FILTERS",
    "Sampler",
    "Session",
    "begin",
    "compile_step",
    "ended",
    "load",
    "prefill",
    "save",
    "stream",
    "write",
]
