"""What config.json of an exported model says."""

from typing import Any, ClassVar

from transformers import PreTrainedConfig

MODEL_TYPE = "ostinato"


class OstinatoConfig(PreTrainedConfig):
    """The arguments of a language model of this library, where transformers looks for them.

    vocab_size: number of different tokens
    model: what the config of a run says of the model: dim, layers, pattern, mlp, ... or a name and a size
    tie_word_embeddings: whether head and embedding are one; a fact about `model`, which decides it
    use_cache: whether a forward pass outside of training returns the state
    """

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference: ClassVar = ["past_key_values"]  # the Trainer adds to it

    vocab_size: int = 256
    model: dict[str, Any] | None = None
    tie_word_embeddings: bool = True
    use_cache: bool = True

    def __post_init__(self, **keywords: Any) -> None:
        self.model = {"dim": 256} if self.model is None else dict(self.model)
        # kept once, where transformers changes it when there are new tokens
        self.vocab_size = self.model.pop("vocab_size", self.vocab_size)
        self.tie_word_embeddings = self.model.get("tie", self.tie_word_embeddings)
        # read by other libraries (DeepSpeed, PEFT, estimates of memory); what holds is `model`
        about = {"hidden_size": self.model.get("dim"), "num_hidden_layers": self.model.get("layers")}
        super().__post_init__(**keywords | {name: number for name, number in about.items() if number is not None})

    @property
    def arguments(self) -> dict[str, Any]:
        """What `ostinato.models.named.build` makes the model of."""
        assert self.model is not None
        return {**self.model, "vocab_size": self.vocab_size}
