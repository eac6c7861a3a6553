"""The sizes at which papers built their models, as arguments of the language model.

    model("gla", "...", all=dict(pattern="gla"), tiny=dict(dim=16, layers=2), small=dict(dim=1024, layers=24, millions=340))

`all` holds what every size shares; `millions` is the number of parameters that the paper states, with its vocabulary.
"tiny" is no paper's: the same layout with a few thousand parameters. A note says where a layout differs from its paper.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from ostinato.registry import did_you_mean


@dataclass(frozen=True)
class Layout:
    """What a paper says of a model.

    name: of the model, without its kind
    summary: one sentence
    papers: ids of its papers
    vocabulary: different tokens in the paper
    sizes: for each size, arguments of the language model
    millions: for some sizes, the millions of parameters that the paper states
    note: where it differs from the paper
    """

    name: str
    summary: str
    papers: tuple[str, ...]
    vocabulary: int
    sizes: dict[str, dict[str, Any]]
    millions: dict[str, float]
    note: str = ""

    def arguments(self, size: str) -> dict[str, Any]:
        """The arguments of the language model at that size."""
        if size not in self.sizes:
            known = ", ".join(self.sizes)
            raise ValueError(f"{self.name} has the sizes {known}; got {size!r}{did_you_mean(str(size), self.sizes)}")
        return deepcopy(self.sizes[size])


LAYOUTS: dict[str, Layout] = {}


def model(
    name: str,
    summary: str,
    *,
    all: dict[str, Any],
    paper: str | tuple[str, ...] | None = None,
    vocabulary: int = 32_000,
    note: str = "",
    **sizes: dict[str, Any],
) -> None:
    """Write a line of the table; the paper's id is the name, where it is not said."""
    if name in LAYOUTS:
        raise ValueError(f"{name} is in the table already")
    papers = (name,) if paper is None else (paper,) if isinstance(paper, str) else paper
    millions = {size: values["millions"] for size, values in sizes.items() if "millions" in values}
    whole = {size: all | {k: v for k, v in values.items() if k != "millions"} for size, values in sizes.items()}
    LAYOUTS[name] = Layout(name, summary, papers, vocabulary, whole, millions, note)


def rwkv(version: int, blocks: int, expansion: float = 3.5, **others: Any) -> list[dict[str, Any]]:
    """Blocks of time mix and channel mix, which know how deep they are."""
    pattern: list[dict[str, Any]] = []
    for block in range(blocks):
        depth = round(block / (blocks - 1), 4)
        pattern.append({f"rwkv{version}": {**others, "depth": depth}})
        pattern.append({"rwkv_channel_mix": {"expansion": expansion, "receptance": version < 7, "depth": depth}})
    return pattern


def griffin(width: int, heads: int, head_dim: int, blocks: int = 16, window: int = 1024) -> list[dict[str, Any]]:
    """Two recurrent blocks, then attention in a window with one head of keys."""
    recurrent = {"rg_lru": {"width": width, "heads": blocks}}
    attention = {"attention": {"heads": heads, "kv_heads": 1, "head_dim": head_dim, "window": window}}
    return [recurrent, deepcopy(recurrent), attention]


def dilated(sets: int) -> list[dict[str, Any]]:
    """Dilations that double from 1 on, with the multiplicative units of ByteNet's language model."""
    return [{"dilated_conv": {"conv_width": 3, "dilation": 2**i, "unit": "multiplicative"}} for i in range(sets)]


def supervised(layers: int, chunk: int, **state_space: Any) -> dict[str, Any]:
    """A stack of state spaces and convolutions in turns, with a supervisor around it."""
    stack = {"layers": layers, "pattern": [{"s4d": state_space}, "multi_resolution_conv"]}
    return {"recurrent_supervisor": {"inner": {"stack": stack}, "chunk": chunk}}


def based(heads: int, features: int, window: int) -> list[Any]:
    """Of five layers one with linear attention, one with attention in a window, and three with gated convolutions."""
    linear = {"based": {"heads": heads, "key_dim": features}}
    return ["lfm2", linear, {"attention": {"heads": heads, "window": window}}, "lfm2", "lfm2"]


def rodimus_plus(heads: int, key_dim: int = 64, window: int = 2048) -> list[dict[str, Any]]:
    """A memory, and attention with a shared key."""
    attention = {"shared_key_window_attention": {"heads": heads, "window": window}}
    return [{"rodimus": {"key_dim": key_dim}}, attention]


def mixed_spans(layers: int, full: int, heads: int, window: int) -> list[dict[str, Any]]:
    """Attention to everything in the lowest layers, and to a window in the others."""
    spans: list[int | None] = [None] * full + [window] * (layers - full)
    return [{"attention": {"heads": heads, "window": span}} for span in spans]


def long_segments(heads: int) -> list[dict[str, Any]]:
    """Attention in five segments, each twice as long as the one before."""
    segments = [[2048, 1], [4096, 2], [8192, 4], [16384, 6], [32768, 12]]
    return [{"dilated_attention": {"heads": heads, "segments": segments}}]


RWKV = dict(mlp=None, tie=False, norm="layer", embedding_norm=True)
"""What all generations of RWKV have: norms with a mean and a bias, and one of the embedding."""

# fmt: off

# Sun et al. 2023, table 2 (1.3B) and section 3.5 (200M, which leave out the embeddings): heads of 256, an MLP of twice the width
model("retnet", "RetNet: multi-scale retention", vocabulary=50_257,
      all=dict(mlp="gelu", expansion=2.0),
      tiny=dict(dim=16, layers=2, pattern=[{"retention": {"heads": 2}}]),
      small=dict(dim=1024, layers=16, pattern=[{"retention": {"heads": 4}}]),
      base=dict(dim=2048, layers=24, pattern=[{"retention": {"heads": 8}}], millions=1300))

# Beck et al. 2024, table 1 (409M for [1:0], 408M for [7:1]) and appendix: 24 and 48 blocks of 6 D D parameters
model("xlstm", "xLSTM[7:1]: seven layers of mLSTM for one of sLSTM", vocabulary=50_257,
      all=dict(pattern=["mlstm", "mlstm", "mlstm", "slstm", "mlstm", "mlstm", "mlstm", "mlstm"], tie=False),
      note="Blocks are those of xLSTM-7B, an mLSTM and an MLP, each as large as two blocks of the first paper.",
      tiny=dict(dim=8, layers=2, pattern=["mlstm", "slstm"]),
      small=dict(dim=768, layers=12, millions=164), base=dict(dim=1024, layers=24, millions=408))

# Cabannes et al. 2025: one layer of attention in a window for one of mLSTM; trained with windows of 128 and 2048 (train.windows)
model("swax", "SWAX: attention in a window and mLSTM, in turns", vocabulary=128_256,
      all=dict(tie=False), note="Made to be trained with train.windows: [128, 2048].",
      tiny=dict(dim=8, layers=2, pattern=[{"attention": {"heads": 2, "window": 7}}, {"mlstm": {"heads": 2}}]),
      small=dict(dim=768, layers=12, pattern=[{"attention": {"heads": 12, "window": 2048}}, "mlstm"]),
      base=dict(dim=2048, layers=24, pattern=[{"attention": {"heads": 16, "window": 2048}}, {"mlstm": {"heads": 8}}]))

# De et al. 2024, table 2 (appendix C): width, RNN width, depth, heads of 128 channels; an MLP of three times the width
model("hawk", "Hawk: real-gated linear recurrences", paper="griffin",
      all=dict(mlp="geglu", expansion=3.0),
      tiny=dict(dim=8, layers=2, pattern=[{"rg_lru": {"width": 12, "heads": 2}}]),
      small=dict(dim=1536, layers=12, pattern=[{"rg_lru": {"width": 2048, "heads": 16}}], millions=400),
      base=dict(dim=2048, layers=24, pattern=[{"rg_lru": {"width": 2560, "heads": 16}}], millions=1300))
model("griffin", "Griffin: two layers of real-gated linear recurrences for one of attention in a window",
      all=dict(mlp="geglu", expansion=3.0),
      tiny=dict(dim=8, layers=3, pattern=griffin(12, 2, 4, blocks=2, window=7)),
      small=dict(dim=1536, layers=12, pattern=griffin(2048, 12, 128), millions=400),
      base=dict(dim=2048, layers=24, pattern=griffin(2560, 16, 128), millions=1300))

# Yang et al. 2023, section 5.1: 24 layers, 4 heads; hidden widths of the MLP as in the authors' code (2816, 5632)
model("gla", "GLA: gated linear attention", all=dict(pattern="gla", expansion=2.75),
      tiny=dict(dim=16, layers=2), small=dict(dim=1024, layers=24, millions=340),
      base=dict(dim=2048, layers=24, millions=1300))

# Qin et al. 2024, as flash-linear-attention trained it beside GLA: heads of 128; lower bounds are learned, rising with depth
model("hgrn2", "HGRN2: gated linear recurrences with a state expanded by an outer product", all=dict(expansion=2.75),
      tiny=dict(dim=8, layers=2, pattern=[{"hgrn2": {"heads": 2}}]),
      small=dict(dim=1024, layers=24, pattern=[{"hgrn2": {"heads": 8}}], millions=340),
      base=dict(dim=2048, layers=24, pattern=[{"hgrn2": {"heads": 16}}], millions=1300))

# Gu and Dao 2023, section 3.4 (no channel mixers) and table 12
model("mamba", "Mamba: selective state spaces alone", vocabulary=50_280, all=dict(pattern="mamba", mlp=None),
      tiny=dict(dim=8, layers=2), small=dict(dim=768, layers=24, millions=130),
      base=dict(dim=1024, layers=48, millions=370))

# Dao and Gu 2024, table 9: heads of 64, 128 numbers of state
model("mamba2", "Mamba-2: state-space duality alone", paper="stuffed_mamba", vocabulary=50_280, all=dict(mlp=None),
      tiny=dict(dim=8, layers=2, pattern=[{"mamba2": {"state_size": 4, "head_dim": 4}}]),
      small=dict(dim=768, layers=24, pattern="mamba2", millions=130),
      base=dict(dim=1024, layers=48, pattern="mamba2", millions=370))

# Yang et al. 2024, section 4: 0.4B and 1.3B; 21 layers of 6 heads with keys of 256 and values of 512 at 1.3B
model("gated_deltanet", "Gated DeltaNet: the delta rule with a decay", all=dict(expansion=2.75),
      tiny=dict(dim=8, layers=2, pattern=[{"gated_deltanet": {"heads": 2}}]),
      small=dict(dim=1024, layers=24, pattern=[{"gated_deltanet": {"heads": 6, "key_dim": 128}}], millions=400),
      base=dict(dim=2048, layers=21, pattern=[{"gated_deltanet": {"heads": 6, "key_dim": 256}}], millions=1300))

# Yang et al. 2024, https://arxiv.org/abs/2406.06484, section 4.2: 24 layers, heads of 128
model("deltanet", "DeltaNet: the delta rule", paper=(), all=dict(expansion=2.75),
      tiny=dict(dim=8, layers=2, pattern=[{"deltanet": {"heads": 2}}]),
      small=dict(dim=1024, layers=24, pattern=[{"deltanet": {"heads": 8}}], millions=340),
      base=dict(dim=2048, layers=24, pattern=[{"deltanet": {"heads": 16}}], millions=1300))

# Orvieto et al. 2023, table 10: 6 layers of width 512 for sequential CIFAR, a ring of 0.9 to 0.999
model("lru", "LRU: linear recurrent units with gated channel mixers", vocabulary=256,
      all=dict(mlp="geglu", expansion=1.0), note="The gated unit after a recurrence has a norm and a residual of its own here.",
      tiny=dict(dim=8, layers=2, pattern=[{"lru": {"min_radius": 0.4, "max_radius": 0.95}}]),
      small=dict(dim=512, layers=6, pattern=[{"lru": {"state_size": 384, "min_radius": 0.9, "max_radius": 0.999}}]),
      base=dict(dim=1024, layers=12, pattern=[{"lru": {"state_size": 1024, "min_radius": 0.9, "max_radius": 0.999}}]))

# Katharopoulos et al. 2020, section 4.2: pixels of MNIST (8 layers) and of CIFAR-10 (16 layers), 8 heads of 32
model("linear_transformer", "Linear transformer: linear attention with the feature map elu + 1", vocabulary=256,
      all=dict(mlp="gelu", expansion=4.0), note="Positions come from nothing here; the paper learns embeddings of them.",
      tiny=dict(dim=8, layers=2, pattern=[{"linear_attention": {"heads": 2}}]),
      small=dict(dim=256, layers=8, pattern=[{"linear_attention": {"heads": 8}}]),
      base=dict(dim=256, layers=16, pattern=[{"linear_attention": {"heads": 8}}]))

# Feng et al. 2024, appendix: three layers of width 384 for the characters of Shakespeare
model("min_gru", "minGRU: gates that see only the input, and an MLP", paper=(), vocabulary=65,
      all=dict(pattern="min_gru", mlp="gelu"), note="The paper puts a short convolution before each minGRU.",
      tiny=dict(dim=8, layers=2), small=dict(dim=384, layers=3), base=dict(dim=768, layers=12))

# Dauphin et al. 2016, table 1: GCNN-8 (for words of WikiText-103) and GCNN-13 (for those of Google's billion)
model("gcnn", "GCNN: gated convolutions alone", paper="gated_conv_lm", vocabulary=267_735, all=dict(mlp=None),
      note="Each convolution has a residual connection, and the head is a plain one; adaptive_language_model has theirs.",
      tiny=dict(dim=8, layers=2, pattern=[{"gated_conv": {"conv_width": 3}}]),
      small=dict(dim=900, layers=8, pattern=[{"gated_conv": {"conv_width": 4}}]),
      base=dict(dim=1268, layers=25, pattern=[{"gated_conv": {"conv_width": 4}}]))

# Kalchbrenner et al. 2016, section 4: 30 blocks in six sets of five; 512 channels for characters, 800 for translation
model("bytenet", "ByteNet: dilated convolutions alone, the dilation doubling from 1 to 16 and again", vocabulary=205,
      all=dict(mlp=None), note="The decoder, as a language model of characters; one multiplicative unit in a block, not two.",
      tiny=dict(dim=8, layers=3, pattern=dilated(2)), small=dict(dim=1024, layers=30, pattern=dilated(5)),
      base=dict(dim=1600, layers=30, pattern=dilated(5)))

# Bai, Kolter, Koltun 2018, appendix: words of the Penn treebank (55 levels) and of WikiText-103 (70 levels)
model("trellis_net", "TrellisNet: levels of a convolutional network that share the weights and gates of one LSTM",
      vocabulary=10_000, all=dict(layers=1, mlp=None),
      note="The outputs are a map of the hidden channels, not some of them; no dropouts, no losses of levels in between.",
      tiny=dict(dim=8, pattern=[{"trellis": {"hidden": 12, "levels": 3}}]),
      small=dict(dim=400, pattern=[{"trellis": {"hidden": 1400, "levels": 55}}]),
      base=dict(dim=512, pattern=[{"trellis": {"hidden": 2512, "levels": 70}}]))

# Acharya 2025, section 4 (small), with the sizes of the authors' code
model("gam", "GAM: short convolutions beside learned banks of patterns", paper="gated_associative_memory", vocabulary=10_000,
      all=dict(mlp="gelu", expansion=4.0), note="Positions come from the convolutions alone; the paper learns embeddings of them.",
      tiny=dict(dim=8, layers=2, pattern=[{"gated_associative_memory": {"slots": 6}}]),
      small=dict(dim=512, layers=6, pattern="gated_associative_memory", millions=22.6),
      base=dict(dim=768, layers=12, pattern=[{"gated_associative_memory": {"slots": 768}}]))

# Kiruluta, Raju, Burity 2025: state spaces and convolutions of several dilations, and a recurrent state over chunks
model("non_attention_lm", "Non-attention LM: state spaces and convolutions in turns, under a recurrent supervisor",
      paper="non_attention_llm", vocabulary=50_257, all=dict(layers=1, mlp=None),
      note="One supervisor around all layers; the store of chunks that the paper retrieves from is not here.",
      tiny=dict(dim=8, pattern=[supervised(2, 9, state_size=4)]),
      small=dict(dim=512, pattern=[supervised(12, 512)]), base=dict(dim=1024, pattern=[supervised(24, 512)]))

# Gu, Goel, Re 2021: sequential CIFAR-10 (small), and the Transformer of WikiText-103 with S4 in the place of attention (base)
model("s4", "S4: state spaces that begin as HiPPO, and their GLUs", vocabulary=267_735, all=dict(pattern="s4"),
      note="The head and the embedding are plain ones; adaptive_language_model has those of WikiText-103.",
      tiny=dict(dim=8, layers=2, mlp=None, pattern=[{"s4": {"state_size": 4}}]), small=dict(dim=512, layers=6, mlp=None),
      base=dict(dim=1024, layers=16, mlp="gelu", expansion=4.0))

# Mehta, Gupta, Cutkosky, Neyshabur 2022: layers of GSS (E 1024, H 256, F 4096, N 512), now and then a block of a Transformer
model("gss_hybrid", "GSS-Hybrid: three gated state spaces for one layer of attention to the last 512 tokens", paper="gss",
      vocabulary=32_000, all=dict(mlp=[None, None, None, "gelu"]),
      note="Attention sees a window where the paper cuts the sequence into chunks.",
      tiny=dict(dim=8, layers=2, mlp=[None, "gelu"],
                pattern=[{"gss": {"state_size": 4}}, {"attention": {"heads": 2, "window": 7}}]),
      small=dict(dim=1024, layers=16, pattern=["gss", "gss", "gss", {"attention": {"heads": 8, "window": 512}}]),
      base=dict(dim=1024, layers=32, pattern=["gss", "gss", "gss", {"attention": {"heads": 8, "window": 512}}], millions=373))

# Zhang et al. 2024, section 5.1: 24 layers, 4 heads of 64 slots, the sizes of GLA
model("gsa", "GSA: gated slot attention", all=dict(expansion=2.75),
      tiny=dict(dim=8, layers=2, pattern=[{"gsa": {"heads": 2, "slots": 5}}]),
      small=dict(dim=1024, layers=24, pattern=[{"gsa": {"heads": 4, "slots": 64}}]),
      base=dict(dim=2048, layers=24, pattern=[{"gsa": {"heads": 4, "slots": 64}}], millions=1300))

# Arora et al. 2024, the authors' based-360m and based-1b: 16 heads, 16 features, attention in a window, the rest convolutions
model("based", "Based: Taylor linear attention, attention in a window, and gated convolutions", vocabulary=50_280,
      all=dict(expansion=2.0), note="The gated convolutions are narrower than there, so the parameters are a tenth fewer.",
      tiny=dict(dim=8, layers=3, pattern=based(2, 3, 5)), small=dict(dim=1024, layers=27, pattern=based(16, 16, 256)),
      base=dict(dim=1792, layers=36, pattern=based(16, 16, 256)))

# He et al. 2024, as in the authors' code: a memory, then attention with a shared key and an MLP of 4/3
model("rodimus_plus", "Rodimus+: tempered selection, attention with a shared key in a window, and an MLP", paper="rodimus",
      vocabulary=126_464, all=dict(mlp=[None, "swiglu"], expansion=4 / 3),
      note="A block of the paper, memory and attention and MLP, is two layers here.",
      tiny=dict(dim=8, layers=2, pattern=rodimus_plus(2, key_dim=4, window=7)),
      small=dict(dim=1024, layers=48, pattern=rodimus_plus(16), millions=460),
      base=dict(dim=2048, layers=48, pattern=rodimus_plus(32), millions=1600))

# Katsch 2023, section 4: one channel a head, as for WikiText-103
model("gateloop", "GateLoop: linear recurrences whose decay and rotation follow the data", vocabulary=50_257,
      all=dict(pattern="gateloop", mlp="gelu"), note="The paper does not say the width; its model has 125 million parameters.",
      tiny=dict(dim=8, layers=2), small=dict(dim=768, layers=10), base=dict(dim=1024, layers=24))

# Qin et al. 2024, as flash-linear-attention builds it: heads of 128, output gates of rank 128, the sizes of GLA
model("lightnet", "LightNet: linear attention with additive decay", all=dict(expansion=2.75),
      tiny=dict(dim=8, layers=2, pattern=[{"lightnet": {"heads": 2, "gate_rank": 3}}]),
      small=dict(dim=1024, layers=24, pattern=[{"lightnet": {"heads": 8, "gate_rank": 128}}]),
      base=dict(dim=2048, layers=24, pattern=[{"lightnet": {"heads": 16, "gate_rank": 128}}]))

# Hwang et al. 2024, section 4.1: 112M in 23 layers of width 768, for masked language modelling
model("hydra", "Hydra: state spaces that read both ways; an encoder", vocabulary=30_522, all=dict(mlp=None),
      note="It sees the whole sequence, so it has no loss of the next token. base is no size of the paper.",
      tiny=dict(dim=8, layers=2, pattern=[{"hydra": {"state_size": 4, "head_dim": 4, "conv_width": 3}}]),
      small=dict(dim=768, layers=23, pattern="hydra", millions=112), base=dict(dim=1024, layers=46, pattern="hydra"))

# Peng et al. 2023 (RWKV-4, 169M and 430M), 2024 (Eagle, 462M and 1577M; Finch, 1.6B), 2025 (Goose, 191M and 451M): heads of 64
model("rwkv4", "RWKV-4: a running weighted mean of values", paper="rwkv_survey", vocabulary=50_277,
      all=RWKV, note="A block of the paper, time mix and channel mix, is two layers here.",
      tiny=dict(dim=8, layers=4, pattern=rwkv(4, 2)), small=dict(dim=768, layers=24, pattern=rwkv(4, 12, 4.0), millions=169),
      base=dict(dim=1024, layers=48, pattern=rwkv(4, 24, 4.0), millions=430))
model("rwkv5", "RWKV-5 (Eagle): matrix memories with a fixed decay for each channel", paper="rwkv_survey", vocabulary=65_536,
      all=RWKV, note="A block of the paper, time mix and channel mix, is two layers here.",
      tiny=dict(dim=8, layers=4, pattern=rwkv(5, 2, heads=2)),
      small=dict(dim=1024, layers=48, pattern=rwkv(5, 24, heads=16), millions=462),
      base=dict(dim=2048, layers=48, pattern=rwkv(5, 24, heads=32), millions=1577))
model("rwkv6", "RWKV-6 (Finch): matrix memories whose decay follows the data", paper="rwkv_survey", vocabulary=65_536,
      all=RWKV, note="A block of the paper, time mix and channel mix, is two layers here.",
      tiny=dict(dim=8, layers=4, pattern=rwkv(6, 2, heads=2, shift_rank=3, decay_rank=2)),
      small=dict(dim=1024, layers=48, pattern=rwkv(6, 24, heads=16)),
      base=dict(dim=2048, layers=48, pattern=rwkv(6, 24, heads=32), millions=1600))
model("rwkv7", "RWKV-7 (Goose): matrix memories with a generalised delta rule", paper="rwkv_survey", vocabulary=65_536,
      all=RWKV, note="A block of the paper, time mix and channel mix, is two layers here.",
      tiny=dict(dim=8, layers=4, pattern=rwkv(7, 2, heads=2, rank=2, gate_rank=3)),
      small=dict(dim=768, layers=24, pattern=rwkv(7, 12, 4.0, heads=12), millions=191),
      base=dict(dim=1024, layers=48, pattern=rwkv(7, 24, 4.0, heads=16), millions=451))
LAYOUTS["rwkv"] = replace(LAYOUTS["rwkv7"], name="rwkv", summary="RWKV: the newest generation here, RWKV-7")

# Lin et al. 2025: heads of 64 and the "Pro" block
model("fox", "FoX (Pro): softmax attention with a forget gate, and no positions", vocabulary=50_277,
      all=dict(tie=False), note="Depths and widths are those usual at 125M and 760M.",
      tiny=dict(dim=8, layers=2, pattern=[{"forgetting_attention": {"heads": 2, "pro": True}}]),
      small=dict(dim=768, layers=12, pattern=[{"forgetting_attention": {"heads": 12, "pro": True}}]),
      base=dict(dim=1536, layers=24, pattern=[{"forgetting_attention": {"heads": 24, "pro": True}}]))

# Fu et al. 2025: windows of 128
model("swat", "SWAT: attention in a window with sigmoids and balanced slopes", all=dict(),
      note="Depths and widths are those usual at 340M and 760M.",
      tiny=dict(dim=8, layers=2, pattern=[{"sigmoid_window_attention": {"heads": 2, "window": 7}}]),
      small=dict(dim=1024, layers=24, pattern=[{"sigmoid_window_attention": {"heads": 16, "window": 128}}]),
      base=dict(dim=1536, layers=24, pattern=[{"sigmoid_window_attention": {"heads": 16, "window": 128}}]))

# Huang et al. 2018: a decoder of events, with distances up to half of 2048 events
model("music_transformer", "Music Transformer: relative attention by skewing, and a plain MLP", vocabulary=388,
      all=dict(mlp="gelu"), note="Depths and widths are ours. MLPs have a gelu where the paper has a relu.",
      tiny=dict(dim=8, layers=2, pattern=[{"relative_attention_skew": {"heads": 2, "farthest": 9}}]),
      small=dict(dim=256, layers=6, pattern=[{"relative_attention_skew": {"heads": 8, "farthest": 1024}}]),
      base=dict(dim=512, layers=6, pattern=[{"relative_attention_skew": {"heads": 8, "farthest": 1024}}]))

# Zhang et al. 2023: 1.3B, 24 layers of width 2048, of which few see everything
model("masformer", "MASFormer: attention to everything in few layers, and to a window in the others", vocabulary=50_257,
      all=dict(mlp="gelu"), note="That the full layers are the lowest ones is a choice here; a pattern may put them anywhere.",
      tiny=dict(dim=8, layers=3, pattern=mixed_spans(3, 1, 2, 7)),
      small=dict(dim=768, layers=12, pattern=mixed_spans(12, 2, 12, 1024)),
      base=dict(dim=2048, layers=24, pattern=mixed_spans(24, 4, 16, 1024), millions=1300))

# Ding et al. 2023: 12 layers of width 768 with 12 heads, segments of 2048 to 32768 with gaps of 1 to 12
model("longnet", "LongNet: dilated attention", vocabulary=100_288, all=dict(mlp="gelu"),
      note="base is no size of the paper.",
      tiny=dict(dim=8, layers=2, pattern=[{"dilated_attention": {"heads": 2, "segments": [[4, 1], [12, 3]]}}]),
      small=dict(dim=768, layers=12, pattern=long_segments(12)), base=dict(dim=1024, layers=24, pattern=long_segments(16)))

# Hu et al. 2025: Mamba-2 with layers of hierarchical sparse attention among its own
model("ramba", "RAMba: Mamba-2 that looks into chunks of all that it read", paper="ramba_hsa", vocabulary=50_280,
      all=dict(mlp=None), note="How many layers of Mamba-2 stand before one of attention is our choice: six.",
      tiny=dict(dim=8, layers=2, pattern=["mamba2", {"hierarchical_sparse_attention": {"heads": 2, "chunk": 4, "chunks": 2}}]),
      small=dict(dim=768, layers=28, pattern=["mamba2"] * 6 + [{"hierarchical_sparse_attention": {"heads": 12}}]),
      base=dict(dim=1024, layers=56, pattern=["mamba2"] * 6 + [{"hierarchical_sparse_attention": {"heads": 16}}]))

# He and Garner 2025: layers of linear attention and of sparse attention by turns
for name, mixer, summary, tiny in (
    ("lalte", "learnable_token_eviction", "laLTE: the delta rule, and attention to tokens that it learns to keep",
     {"window": 6, "budget": 4, "reach": 1, "features": 4}),
    ("lansa", "native_sparse_attention", "laNSA: the delta rule, and native sparse attention",
     {"block": 4, "blocks": 3, "window": 6}),
):
    model(name, summary, paper="learnable_token_eviction", all=dict(expansion=2.75),
          note="The sizes are those of Gated DeltaNet, every second layer of which is replaced.",
          tiny=dict(dim=8, layers=2, pattern=[{"gated_deltanet": {"heads": 2}}, {mixer: {"heads": 2, **tiny}}]),
          small=dict(dim=1024, layers=24, pattern=[{"gated_deltanet": {"heads": 6, "key_dim": 128}}, {mixer: {"heads": 16}}]),
          base=dict(dim=2048, layers=24, pattern=[{"gated_deltanet": {"heads": 6, "key_dim": 256}}, {mixer: {"heads": 32}}]))

# fmt: on
