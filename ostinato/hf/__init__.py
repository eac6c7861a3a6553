"""Models of this library as models of transformers.

    import ostinato.hf
    model = AutoModelForCausalLM.from_pretrained(folder)        # what `ostinato export RUN --to transformers` wrote

Importing this tells the Auto classes of the model type "ostinato": no code comes with a checkpoint, and none is run.
"""

try:
    import transformers
except ImportError:
    raise ImportError("ostinato.hf needs transformers: pip install 'ostinato[hf]'") from None

from ostinato.hf.cache import OstinatoCache
from ostinato.hf.config import OstinatoConfig
from ostinato.hf.lora import lora_targets
from ostinato.hf.model import OstinatoForCausalLM, OstinatoPreTrainedModel

__all__ = ["OstinatoCache", "OstinatoConfig", "OstinatoForCausalLM", "OstinatoPreTrainedModel", "lora_targets"]

transformers.AutoConfig.register(OstinatoConfig.model_type, OstinatoConfig, exist_ok=True)
transformers.AutoModelForCausalLM.register(OstinatoConfig, OstinatoForCausalLM, exist_ok=True)
transformers.AutoTokenizer.register(
    OstinatoConfig, fast_tokenizer_class=transformers.PreTrainedTokenizerFast, exist_ok=True
)
