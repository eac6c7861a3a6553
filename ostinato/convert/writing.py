"""Models that make no run, such as encoders, as checkpoints of transformers.

model = ostinato.from_pretrained("checkpoints/bert-base-uncased")
...
write_pretrained(model, "checkpoints/bert-base-uncased", "checkpoints/bert-of-mine")
"""

import json
from pathlib import Path

from torch import nn

from ostinato.convert import files, table
from ostinato.convert.exporting import as_imported
from ostinato.convert.importing import architecture_of, config_of
from ostinato.convert.settings import Settings
from ostinato.files import folder_atomically, write_atomically


def write_pretrained(model: nn.Module, origin: str | Path, folder: str | Path, *, largest: int = files.SHARD) -> Path:
    """Write the weights of a model under the names of the checkpoint that it was read from, with its config and tokenizer.

    Weights that were stored in 16 bits and still fit into them are written so.

    model: what `from_pretrained(origin)` gave, trained further or not
    origin: the checkpoint
    folder: what is written, which must not exist yet
    largest: bytes of a file, above which weights are written in several
    """
    origin, folder = files.locate(origin), files.new_folder(folder)
    config = config_of(origin)
    architecture = architecture_of(config)
    arguments = architecture.arguments(Settings(config))
    try:
        tensors = table.write(architecture.rows(arguments), model.state_dict())
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"the model is not what {origin} holds: {error}") from error
    with files.Weights(origin) as weights:
        kinds = {name: str(weights.get(name).dtype).removeprefix("torch.") for name in tensors if name in weights}
    tensors = {name: as_imported(name, x, {"dtype": kinds.get(name)}) for name, x in tensors.items()}
    with folder_atomically(folder) as beside:
        write_atomically(beside / files.CONFIG, json.dumps(config, indent=2) + "\n")
        files.save_weights(beside, tensors, largest)
        files.carry(origin, beside)
    return folder
