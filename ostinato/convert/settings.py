"""The config of a model of another library, read so that nothing in it is passed over.

Every name is asked for by the architecture, or known to change no number, or refused.
"""

from collections.abc import Iterable, Mapping
from typing import Any

REQUIRED: Any = object()

HARMLESS = frozenset(
    """
    _name_or_path architectures model_type transformers_version torch_dtype dtype auto_map _commit_hash name_or_path
    use_cache is_decoder is_encoder_decoder return_dict output_attentions output_hidden_states torchscript
    bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id decoder_start_token_id unk_token_id
    initializer_range initializer_factor gradient_checkpointing attn_implementation _attn_implementation
    _attn_implementation_autoset attention_dropout hidden_dropout hidden_dropout_prob resid_pdrop embd_pdrop attn_pdrop
    resid_dropout classifier_dropout problem_type id2label label2id finetuning_task task_specific_params chunk_size_feed_forward
    max_position_embeddings max_length min_length do_sample num_beams temperature top_k top_p repetition_penalty
    keys_to_ignore_at_inference tokenizer_class prefix pretraining_tp early_stopping num_return_sequences length_penalty
    no_repeat_ngram_size num_beam_groups diversity_penalty typical_p encoder_no_repeat_ngram_size bad_words_ids
    forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens output_scores return_dict_in_generate
    """.split()
)
"""Names that say how a model was made, initialised, trained, sampled from or stored, and nothing about its numbers."""


class Settings:
    """A config, and which of its names have been asked for.

    values: the content of config.json
    ignore: names that are passed over
    """

    def __init__(self, values: Mapping[str, Any], ignore: Iterable[str] = ()):
        self.values = dict(values)
        self.model_type = str(values.get("model_type", "mamba_ssm"))
        self.asked = set(ignore)

    def take(self, *names: str, default: Any = REQUIRED) -> Any:
        """The value of a name, or of the first of several names for one thing that is there."""
        self.asked.update(names)
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        if default is REQUIRED:
            raise ValueError(f"config.json of a {self.model_type} model says {names[0]}; this one does not")
        return default

    def kv_heads(self, heads: int, default: int | None = None) -> int:
        """Heads of keys and values: where the config says null, all heads; where it says nothing, the default."""
        there = "num_key_value_heads" in self.values
        return self.take("num_key_value_heads", default=heads if there or default is None else default)

    def only(self, name: str, *accepted: Any, default: Any = REQUIRED) -> Any:
        """The value of a name; refuses all but the accepted ones, of which the first stands for one that is not there."""
        value = self.take(name, default=accepted[0] if default is REQUIRED else default)
        if value not in accepted:
            there_is = " or ".join(map(repr, accepted))
            raise ValueError(
                f"the {self.model_type} model asks for {name}={value!r}; ostinato has it with {there_is} only"
            )
        return value

    def skip(self, *names: str) -> None:
        """Names that change no number in this architecture."""
        self.asked.update(names)

    def finish(self) -> None:
        """Refuse what nobody asked for, unless it is off."""
        for name, value in self.values.items():
            if name not in self.asked and name not in HARMLESS and value not in (None, False, [], {}):
                what = f"the {self.model_type} model asks for {name}={value!r}, which ostinato does not know"
                raise ValueError(f"{what}; where it changes nothing, say so: ignore {name}")


def rope(settings: Settings, head_dim: int, *, theta: float = 10000.0, part: float = 1.0) -> dict[str, Any]:
    """Arguments of attention that a config's rotary positions are.

    theta: the base where the config says none
    part: the part of the channels that turn, where the config says none
    """
    longest = settings.take("max_position_embeddings", default=2048)
    given = settings.take("rope_scaling", "rope_parameters", default={})
    if not isinstance(given, Mapping):
        raise ValueError(f"rope_parameters of config.json is a mapping; got {given!r}")
    values = Settings({"model_type": settings.model_type, **given})
    theta = settings.take("rope_theta", "rotary_emb_base", default=theta)
    part = settings.take("partial_rotary_factor", "rotary_pct", default=part)
    theta = float(values.take("rope_theta", default=theta))
    rotated = int(head_dim * float(values.take("partial_rotary_factor", default=part)))
    kind = values.take("rope_type", "type", default="default")
    original = values.take("original_max_position_embeddings", default=None)
    original = settings.take("original_max_position_embeddings", default=original) or longest
    scaling: dict[str, Any] | None = None
    if kind == "linear":
        scaling = {"kind": "linear", "factor": float(values.take("factor"))}
    elif kind == "llama3":
        scaling = {"kind": "llama3", "factor": float(values.take("factor")), "original_length": original}
        scaling |= {"fast": float(values.take("high_freq_factor")), "slow": float(values.take("low_freq_factor"))}
    elif kind == "yarn":
        for name in ("mscale", "mscale_all_dim"):
            values.only(name, None)
        scaling = {"kind": "yarn", "factor": float(values.take("factor")), "original_length": original}
        scaling |= {
            "fast": float(values.take("beta_fast", default=32)),
            "slow": float(values.take("beta_slow", default=1)),
        }
        scaling |= {"attention_factor": values.take("attention_factor", default=None)}
        scaling |= {"rounded": values.take("truncate", default=True)}
    elif kind != "default":
        raise ValueError(
            f"the {settings.model_type} model asks for rope_type={kind!r}; there is default, linear, llama3 or yarn"
        )
    values.finish()
    rotation: dict[str, Any] = {"theta": theta}
    if rotated != head_dim:
        rotation["rotated"] = rotated
    return rotation | ({} if scaling is None else {"rope_scaling": scaling})


def pick(pattern: Any, layer: int) -> tuple[str | None, dict[str, Any]]:
    """Name and arguments of the element of a pattern, or of a list of channel mixers, that a layer has."""
    part = pattern[layer % len(pattern)] if isinstance(pattern, list) else pattern
    return (
        (part, {})
        if part is None or isinstance(part, str)
        else next((name, options or {}) for name, options in part.items())
    )
