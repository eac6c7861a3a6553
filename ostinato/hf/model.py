"""A language model of this library as a model of transformers: generate, pipeline, Trainer and PEFT know it.

Where a batch is padded in front, each row is read anew from its first real token on (`reset`), so that padding changes
nothing; the same holds where `position_ids` begin at 0 again (packed documents).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from ostinato.hf.cache import OstinatoCache
from ostinato.hf.config import OstinatoConfig
from ostinato.models.language_model import LanguageModel, LanguageModelState
from ostinato.models.named import build
from ostinato.models.stack import StackState


class OstinatoPreTrainedModel(PreTrainedModel):
    """Loading and saving."""

    config_class = OstinatoConfig
    config: OstinatoConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012 - transformers replaces it in each model
    _is_stateful = True  # no speculative decoding: a state cannot be rolled back

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: every module of ours begins as its paper says when it is made."""

    @classmethod
    def get_init_context(cls, *arguments: Any, **keywords: Any) -> list[Any]:
        """Modules are made with numbers, not on the meta device: what they derive from their arguments is in no checkpoint."""
        contexts = super().get_init_context(*arguments, **keywords)
        devices = [i for i, context in enumerate(contexts) if isinstance(context, torch.device)]
        return contexts[: devices[0]] if devices else contexts

    def _move_missing_keys_from_meta_to_device(
        self, missing_keys: Any, device_map: dict[str, Any] | None, *arguments: Any, **keywords: Any
    ) -> None:
        """What is in no checkpoint has its numbers already and goes where the map says."""
        places = device_map or {}
        devices = {str(place) for place in places.values()}
        if "disk" in devices or ("cpu" in devices and len(devices) > 1):
            raise ValueError(
                f"weights stay where they are used: a device_map names GPUs, or cpu alone; got {sorted(devices)}"
            )
        for name, buffer in self.named_non_persistent_buffers():
            prefix = max((key for key in places if f"{name}.".startswith(f"{key}.") or not key), key=len, default=None)
            device = None if prefix is None else places[prefix]
            if device is not None and device != "disk":
                parent, _, last = name.rpartition(".")
                setattr(self.get_submodule(parent), last, buffer.to(device))


class OstinatoForCausalLM(OstinatoPreTrainedModel, GenerationMixin):
    """A language model of this library behind the calls of transformers.

    config: the arguments of the language model
    """

    def __init__(self, config: OstinatoConfig):
        super().__init__(config)
        self.model = _in_default_dtype(config)
        if not self.model.causal:
            raise ValueError("a causal language model is expected; this one sees the whole sequence")
        kind = type(self.model)
        whole = ("read", "hidden", "embedded", "placed", "finished")
        self.layered = all(getattr(kind, part) is getattr(LanguageModel, part) for part in whole)
        if self.layered:
            self.gradient_checkpointing = False  # having it says that it can be switched on
        first: dict[int, str] = {}
        names = self.named_parameters(remove_duplicate=False)
        shared = {name: first.setdefault(id(x), name) for name, x in names}
        self._tied_weights_keys = {name: source for name, source in shared.items() if name != source}
        config.tie_word_embeddings = "model.head.weight" in self._tied_weights_keys
        self.post_init()

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Weights that are one, under all their names but the first: the head's, and those that layers share."""
        return dict(self._tied_weights_keys or {})

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.model.embedding = value
        self.model.vocab_size = value.num_embeddings

    def get_output_embeddings(self) -> nn.Module:
        return getattr(self.model, "head", None)  # pyright: ignore[reportReturnType] - AdaptiveLanguageModel has several

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.model.head = new_embeddings  # pyright: ignore[reportAttributeAccessIssue]

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # forward makes its own

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: OstinatoCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **keywords: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of each next token, the loss where there are labels, and the cache where one is wanted.

        input_ids: (B, T) tokens, or instead of them
        inputs_embeds: (B, T, D) in place of what the embedding makes of them
        attention_mask: (B, S) 1 where a token is real, of the last S >= T tokens read
        position_ids: (B, T); 0 where a document begins
        past_key_values: what was read before, and what is changed; None at the beginning
        labels: (B, T) tokens to be predicted (those that are read: they are shifted here), -100 where none is
        use_cache: whether to return the state; None for the config's, and for no in training
        output_hidden_states: whether to return what each layer reads, and what the head reads
        logits_to_keep: the last so many logits, or those at these places; 0 for all
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give one of input_ids and inputs_embeds")
        cache = past_key_values
        if cache is not None and not isinstance(cache, OstinatoCache):
            raise ValueError(
                f"past_key_values is an OstinatoCache, as this model returns it; got {type(cache).__name__}"
            )
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        seen = 0 if cache is None else cache.seen
        before = None if cache is None else cache.state
        read = inputs_embeds if input_ids is None else input_ids
        assert read is not None
        reset = begins(attention_mask, position_ids, read.shape[1], seen)
        kept = slice(-logits_to_keep or None, None) if isinstance(logits_to_keep, int) else logits_to_keep
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden: tuple[Tensor, ...] = ()
        if self.layered:
            hidden, state = self._through_layers(input_ids, inputs_embeds, before, reset)
            logits = self.model.logits(hidden[-1][:, kept])
        elif inputs_embeds is not None or output_hidden_states:
            raise ValueError(f"inputs_embeds and output_hidden_states are not for {type(self.model).__name__}")
        else:
            logits, state = self.model(input_ids, before, reset)
            logits = logits[:, kept]
        if use_cache:
            cache = OstinatoCache() if cache is None else cache
            cache.state, cache.seen = state, seen + read.shape[1]
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **keywords)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=cache if use_cache else None,
            hidden_states=hidden if output_hidden_states else None,
        )

    def _through_layers(
        self, tokens: Tensor | None, embedded: Tensor | None, before: LanguageModelState | None, reset: Tensor | None
    ) -> tuple[tuple[Tensor, ...], LanguageModelState]:
        """What each layer reads and what the head reads, and the state: layer by layer, as gradient checkpointing needs it."""
        if tokens is not None:
            self.model.check_input(tokens)
            embedded = self.model.embedding(tokens.long())
        assert embedded is not None
        x, position = self.model.placed(embedded, None if before is None else before.position, reset)
        hidden, after, stack = [x], [], self.model.stack
        states, told = (before or self.model.initial_state(len(x))).stack.layers, {"input": x}
        for layer, state in zip(stack.blocks, states, strict=True):
            if self.gradient_checkpointing and self.training:
                x, state, told = self._gradient_checkpointing_func(stack.through, layer, x, state, reset, told)
            else:
                x, state, told = stack.through(layer, x, state, reset, told)
            hidden.append(x)
            after.append(state)
        hidden[-1] = self.model.finished(x)
        return tuple(hidden), LanguageModelState(StackState(tuple(after)), position)


def begins(mask: Tensor | None, positions: Tensor | None, T: int, seen: int) -> Tensor | None:
    """Where memory is cleared, (B, T) bool: at the first real token after padding, and where positions are 0; None for nowhere."""
    found = None
    if mask is not None:
        if mask.ndim != 2 or mask.shape[1] < T:
            raise ValueError(f"attention_mask is (batch, time) with a time of at least {T}; got {tuple(mask.shape)}")
        real = mask.bool()
        # before the first column that is known there is what was read earlier, or nothing, which needs no clearing
        earlier = torch.cat([torch.ones_like(real[:, :1]), real[:, :-1]], 1)
        found = (real & ~earlier)[:, -T:]
        if found.any() and (found & (real.cumsum(1) > 1)[:, -T:]).any():
            raise ValueError(
                "padding belongs in front of a text (padding_side='left'); attention_mask has some within one"
            )
    if positions is not None:
        zero = positions[:, -T:] == 0
        if not seen:
            zero = zero & (torch.arange(T, device=zero.device) > 0)
        found = zero.expand(len(zero) if found is None else len(found), T) | (False if found is None else found)
    return found if found is not None and found.any() else None


def _in_default_dtype(config: OstinatoConfig) -> LanguageModel:
    """The model in the type that transformers asks for, made in float32: what is computed once is computed exactly."""
    kind = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        model = build(**config.arguments)
    finally:
        torch.set_default_dtype(kind)
    return model.to(kind)
