"""Peers to be compared with: models of other libraries, random weights, of a given width and depth.

A peer that is not installed is skipped with a line that says so.
"""

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from ostinato.registry import did_you_mean

SPECIAL = dict(pad_token_id=0, bos_token_id=0, eos_token_id=None)
LONGEST = 1 << 20


class PeerMissingError(RuntimeError):
    """The peer's package is not installed."""


def _transformers() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import transformers
    except ImportError:
        raise PeerMissingError("transformers is not installed: pip install 'ostinato[hf]'") from None
    transformers.logging.set_verbosity_error()
    return transformers


def llama(dim: int, layers: int, vocab: int) -> nn.Module:
    tf = _transformers()
    config = tf.LlamaConfig(
        hidden_size=dim, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4,
        intermediate_size=4 * dim, vocab_size=vocab, max_position_embeddings=LONGEST, attn_implementation="sdpa", **SPECIAL,
    )  # fmt: skip
    return tf.LlamaForCausalLM(config)


def mamba(dim: int, layers: int, vocab: int) -> nn.Module:
    tf = _transformers()
    return tf.MambaForCausalLM(tf.MambaConfig(hidden_size=dim, num_hidden_layers=layers, vocab_size=vocab, **SPECIAL))


def mamba2(dim: int, layers: int, vocab: int) -> nn.Module:
    tf = _transformers()
    config = tf.Mamba2Config(
        hidden_size=dim, num_hidden_layers=layers, vocab_size=vocab, num_heads=2 * dim // 64, head_dim=64,
        state_size=128, n_groups=1, chunk_size=256, **SPECIAL,
    )  # fmt: skip
    return tf.Mamba2ForCausalLM(config)


PEERS: dict[str, Callable[[int, int, int], nn.Module]] = {"llama": llama, "mamba": mamba, "mamba2": mamba2}


def peer(name: str, dim: int, layers: int, vocab: int) -> nn.Module:
    """That peer, of that width, depth and vocabulary. Raises PeerMissingError where its package is not installed."""
    if name not in PEERS:
        raise ValueError(f"there is no peer {name!r}{did_you_mean(name, PEERS)}; the peers are {', '.join(PEERS)}")
    return PEERS[name](dim, layers, vocab)
