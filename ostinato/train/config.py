"""The config of a run: a YAML file, flags that override it, and the whole that follows from both.

    model: {dim: 256, layers: 4, pattern: [gla]}     arguments of the language model; params: 5M instead of dim,
                                                     mixer: gla instead of a pattern of one; name: xlstm and
                                                     size: small for those of a paper, which the others override;
                                                     name: awd_lstm for one that is a class of its own
    data:  {paths: [notes/], tokenizer: bytes}       DataConfig
    train: {steps: 1000, learning_rate: 3e-3}        TrainConfig

`Config.read` checks what can be checked by itself; `resolve`, once the vocabulary is known, fills in all that was left open.
"""

# ruff: noqa: RUF009  (what `option` returns is a field)

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from ostinato.registry import did_you_mean
from ostinato.train.values import check_keys, check_mapping, option, read, read_value


@dataclass(frozen=True)
class DataConfig:
    """What is learned from."""

    paths: list[str] | None = option(None, "files and folders of documents; null for the source of Python's library")
    tokenizer: str = option(
        "bytes",
        "how text becomes numbers: bytes, bpe:4096 to train one of that size, words or words:10000 for the most frequent"
        " words of the training text, or a folder with tokenizer.json",
    )
    column: str = option("text", "what holds the text in jsonl and parquet files")
    valid: list[str] | None = option(None, "files and folders to validate on; null keeps a part of the data")
    valid_fraction: float = option(0.05, "how large that part is", above=0, below=1)
    max_bytes: int | None = option(None, "read no more than so many bytes of text", at_least=1)
    seed: int = option(0, "another one keeps other documents for validation", at_least=0)


@dataclass(frozen=True)
class TrainConfig:
    """How it is learned. What is null follows from the rest, and is written into the config of the run."""

    steps: int | None = option(None, "updates of the weights; 500 if tokens is null too", at_least=1)
    tokens: int | None = option(None, "read so many tokens, instead of steps", at_least=1)
    batch_size: int = option(8, "rows of a batch, in each process", at_least=1)
    length: int = option(256, "tokens of a row", at_least=1)
    accumulate: int = option(1, "batches whose gradients are added up for an update", at_least=1)
    stream: bool = option(
        False,
        "each row goes on where it stopped in the last batch, with the state handed on; false: rows from all over the text,"
        " which begin with no memory",
    )
    vary_length: bool = option(
        False, "stream: draw the length of every step around `length`, with a learning rate in proportion"
    )
    optimizer: Literal["adamw", "muon", "lamb", "nt_asgd"] = option(
        "adamw",
        "rule of the updates; muon moves the matrices of layers, and adamw the rest; lamb has them all, and so has nt_asgd:"
        " plain descent (with a learning_rate near 30 and a clip of 0.25) whose weights are averaged in the end",
    )
    learning_rate: float = option(3e-3, "the largest learning rate, reached after the warmup", above=0)
    beta1: float = option(0.9, "adamw and lamb: how slowly the mean gradient forgets", at_least=0, below=1)
    beta2: float = option(
        0.95, "adamw and lamb: how slowly the mean square of the gradient forgets", at_least=0, below=1
    )
    momentum: float = option(0.95, "muon: how slowly the sum of gradients forgets", at_least=0, below=1)
    patience: int = option(
        5,
        "nt_asgd: averaging begins when a validation is worse than one of those before it, but for so many last ones",
        at_least=1,
    )
    weight_decay: float = option(0.1, "decay of matrices; vectors and embeddings have none", at_least=0)
    schedule: Literal["cosine", "wsd", "noam", "constant"] = option(
        "cosine", "course of the learning rate after the warmup"
    )
    warmup: int | None = option(None, "steps until the largest rate; null for a tenth of them, at most 100", at_least=0)
    decay: float = option(0.2, "wsd: the part of all steps in which the rate falls", above=0, at_most=1)
    final: float = option(0.1, "cosine and wsd: the last rate as a part of the largest", at_least=0, at_most=1)
    clip: float | None = option(1.0, "longest gradient; a longer one is shortened to it", above=0)
    gradient_noise: float = option(
        0.0,
        "variance of the noise on gradients in the first step, which falls from then on: 0.01 to 1; 0 for none",
        at_least=0,
    )
    init: Literal["default", "mimetic"] = option(
        "default",
        "how weights begin; mimetic lets layers of mamba, mamba2 and linear_attention begin as linear attention",
    )
    windows: list[int] | None = option(
        None, "draw the window of attention layers for each step from these; null leaves it as the model has it"
    )
    windows_final: float = option(
        0.1, "windows: the part of all steps, at the end, that has the largest of them", at_least=0, at_most=1
    )
    span_from: int | None = option(
        None,
        "begin with this window in the attention layers that have one, and let it come down to theirs",
        at_least=1,
    )
    span_part: float = option(
        0.5, "span_from: the part of all steps in which windows come down; 0 for at once", at_least=0, at_most=1
    )
    recompute: bool = option(
        False,
        "gradients compute the inside of blocks again instead of keeping it: less memory, 25 to 30 % more time",
    )
    precision: Literal["float32", "bf16"] = option("float32", "type to compute in; weights stay float32")
    seed: int = option(0, "the same seed gives the same weights, bit for bit on the same machine", at_least=0)
    checkpoint_every: int = option(100, "steps from one checkpoint to the next", at_least=1)
    keep: int = option(2, "checkpoints to keep, the last ones", at_least=1)
    evaluate_every: int | None = option(100, "steps between validations; null for one at the end", at_least=1)
    evaluate_tokens: int | None = option(50_000, "validate on the first so many tokens; null for all", at_least=2)
    evaluate_stream: bool = option(
        True,
        "validate on text that is read as one stream; false: in windows of `length` tokens that begin with no memory",
    )
    log_every: int = option(10, "steps from one line of metrics to the next", at_least=1)
    tensorboard: bool = option(True, "also write the metrics for TensorBoard")
    threads: int | None = option(
        None, "threads of the CPU; null for those that torch has when the run begins", at_least=1
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto is the GPU if there is one")


SECTIONS = {"model": "the language model", "data": DataConfig, "train": TrainConfig}
SPARE = {  # of two ways to say one thing the one that is said later wins
    "model": [("dim", "params"), ("pattern", "mixer")],
    "train": [("steps", "tokens")],
}
MODEL = {"dim": 128, "layers": 4, "pattern": ["gla"]}


@dataclass(frozen=True)
class Config:
    """A whole config.

    model: arguments of the language model, by name
    data: what is learned from
    train: how
    """

    model: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> "Config":
        """The config that nested mappings hold; ValueError in one line, with the path of the key, if it is none."""
        values = check_mapping(values, "a config")
        for name in values:
            if name not in SECTIONS:
                homes = [f"{key}.{each.name}" for key in ("data", "train") for each in fields(SECTIONS[key])]
                homes += [f"model.{key}" for key in (*MODEL, "params", "mixer", "mlp", "name", "size")]
                near = [home for home in homes if home.endswith(f".{name}")]
                hint = f" (did you mean {near[0]}?)" if near else did_you_mean(str(name), SECTIONS)
                raise ValueError(f"{name}: no such section{hint}; a config has {', '.join(SECTIONS)}")
        config = cls(
            _read_model(values.get("model")),
            read(DataConfig, values.get("data"), "data"),
            read(TrainConfig, values.get("train"), "train"),
        )
        if config.train.windows is not None and (not config.train.windows or min(config.train.windows) < 1):
            raise ValueError(f"train.windows: one or more numbers of tokens, at least 1; got {config.train.windows}")
        if config.train.windows is not None and config.train.span_from is not None:
            raise ValueError("train: windows or span_from says what attention sees; got both")
        if config.train.vary_length and not config.train.stream:
            raise ValueError(
                "train.vary_length: lengths vary where each row goes on in the next batch; set train.stream"
            )
        if config.train.optimizer == "nt_asgd" and config.train.evaluate_every is None:
            raise ValueError("train.optimizer: nt_asgd averages when validations say so; set train.evaluate_every")
        if config.train.steps is not None and config.train.tokens is not None:
            raise ValueError("train: steps or tokens says how long to train; got both")
        return config

    def to_mapping(self) -> dict[str, Any]:
        """The config as it is written to YAML."""
        return asdict(self)

    def resolve(self, vocab_size: int, *, processes: int = 1, threads: int | None = None) -> "Config":
        """The same with everything that follows from the rest filled in, and the model built once to see that it can be.

        vocab_size: number of different tokens
        processes: how many train together
        threads: of the CPU, where the config leaves it open
        """
        train = self.train
        tokens = train.batch_size * train.length * train.accumulate * processes
        steps = train.steps or (-(-train.tokens // tokens) if train.tokens else 500)
        warmup = min(100, steps // 10) if train.warmup is None else train.warmup
        if warmup > steps:
            raise ValueError(f"train.warmup: at most the {steps} steps of the run; got {warmup}")
        train = replace(train, steps=steps, tokens=None, warmup=warmup, threads=train.threads or threads)
        model = _resolve_model(self.model, vocab_size)
        if train.windows or train.span_from or train.init == "mimetic" or train.stream or train.recompute:
            _check_that_it_applies(train, model, vocab_size)
        return replace(self, model=model, train=train)


def load(path: str | Path) -> dict[str, Any]:
    """The nested mappings in a YAML file."""
    import yaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no config file {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8, so not a config") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}: not YAML ({getattr(error, 'problem', None) or error}{where})") from None
    if values is not None and not isinstance(values, dict):
        raise ValueError(f"{path}: a config has the sections {', '.join(SECTIONS)}; got {values!r}")
    return values or {}


def override(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings with what `upper` says in place of what `lower` says about the same."""
    result = {name: dict(check_mapping(section, name)) for name, section in lower.items()}
    for name, section in upper.items():
        merged = result.setdefault(name, {})
        for pair in SPARE.get(name, ()):
            if any(key in section for key in pair):
                for key in pair:
                    merged.pop(key, None)
        merged.update(section)
    return result


def assignments(words: Sequence[str]) -> dict[str, Any]:
    """Nested mappings for ["train.clip=0.5", "model.mlp=null"]; values are YAML."""
    import yaml

    values: dict[str, Any] = {}
    for word in words:
        path, equals, text = word.partition("=")
        section, dot, key = path.strip().partition(".")
        if not (equals and dot and key):
            raise ValueError(f"--set takes SECTION.KEY=VALUE, as in train.clip=0.5; got {word!r}")
        try:
            values.setdefault(section, {})[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ValueError(f"--set {path}: {text!r} is not a YAML value") from None
    return values


def meaning(key: str) -> str:
    """The sentence that says what a setting is, and what may be chosen: meaning("train.clip")."""
    section, _, name = key.partition(".")
    found = next(each for each in fields(SECTIONS[section]) if each.name == name)
    choices = get_args(get_type_hints(SECTIONS[section])[name])
    words = f" ({', '.join(choices)})" if all(isinstance(choice, str) for choice in choices) and choices else ""
    sentence = found.metadata["meaning"]
    return f"{sentence[0].upper()}{sentence[1:]}{words}."


def differences(old: Config, new: Config) -> list[str]:
    """What is not the same in two configs, for people: "train.steps is 100, now 200"."""
    before, after = old.to_mapping(), new.to_mapping()
    return [
        f"{section}.{key} is {before[section].get(key)!r}, now {after[section].get(key)!r}"
        for section in SECTIONS
        for key in [*before[section], *(key for key in after[section] if key not in before[section])]
        if before[section].get(key) != after[section].get(key)
    ]


def _read_model(values: Any) -> dict[str, Any]:
    """The section of the model, checked as far as its own arguments go: those of the language model, and params."""
    from ostinato.models.named import entry_of, named, own_models

    model = dict(check_mapping(values, "model"))
    own = {"name": model.pop("name")} if model.get("name") in own_models() else {}
    entry = entry_of(own)
    known = [argument.name for argument in entry.arguments if argument.name != "vocab_size"]
    check_keys(model, [*known, "params", *(["name"] if own else ["mixer", "name", "size"])], "model")
    for one, other in SPARE["model"]:
        if model.get(one) is not None and model.get(other) is not None:
            raise ValueError(f"model: {one} and {other} say the same in two ways; got both")
    if (params := model.pop("params", None)) is not None:
        model["params"] = read_value("model.params", params, int, {"at_least": 1})
    if (mixer := model.pop("mixer", None)) is not None:
        model["pattern"] = mixer
    model = {name: value for name, value in model.items() if value is not None or name not in MODEL}
    size = model.pop("size", None)
    if (name := model.pop("name", None)) is not None:
        try:
            model = override({"model": named(name, size)}, {"model": model})["model"]
        except ValueError as error:
            raise ValueError(f"model.name: {error}") from None
    elif size is not None:
        raise ValueError(f"model.size: the size of a model with a name, as in name: xlstm; got {size!r} alone")
    kinds = get_type_hints(entry.target.__init__)
    model = {name: read_value(f"model.{name}", value, kinds.get(name, Any)) for name, value in model.items()}
    if "pattern" in model:
        model["pattern"] = _read_pattern(model["pattern"])
    return own | model


def _read_pattern(pattern: Any) -> list[Any]:
    """A pattern whose mixers exist, with arguments that they take and of types that they declare."""
    from ostinato.models.stack import parse_pattern
    from ostinato.registry import check_arguments, find

    checked: list[Any] = []
    try:
        for name, arguments in parse_pattern(pattern):
            entry = find(name)
            check_arguments(entry, {"dim": 0, **arguments})
            kinds = get_type_hints(getattr(entry.target, "__init__", entry.target))
            path = f"model.pattern.{name}"
            read_in = {key: read_value(f"{path}.{key}", value, kinds.get(key, Any)) for key, value in arguments.items()}
            checked.append({name: read_in} if read_in else name)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith("model.") else f"model.pattern: {error}") from None
    except TypeError:
        raise ValueError(
            f"model.pattern: a list of mixers, each a name or {{name: {{argument: value}}}}; got {pattern!r}"
        ) from None
    return checked


def _check_that_it_applies(train: TrainConfig, model: Mapping[str, Any], vocab_size: int) -> None:
    """Refuse settings about layers that the model does not have."""
    from ostinato.models.budget import sketch
    from ostinato.models.stack import blocks
    from ostinato.train.mimetic import mimics
    from ostinato.train.windows import windowed_attention

    built = sketch(vocab_size, **model)
    if train.windows and not windowed_attention(built):
        raise ValueError("train.windows: the model has no attention with a window, so there is none to draw")
    if train.span_from and not windowed_attention(built):
        raise ValueError("train.span_from: the model has no attention with a window, so there is none to come down to")
    if train.init == "mimetic" and not mimics(built):
        raise ValueError("train.init: mimetic is for mamba, mamba2 and linear_attention; this model has none of them")
    if train.recompute and not blocks(built):
        raise ValueError("train.recompute: this model has no blocks to compute again")
    if train.stream and built.state_bytes(1 << 20) != built.state_bytes(1 << 21):
        raise ValueError("train.stream: the state of this model grows with the text; give its attention a window")


def _resolve_model(model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """Every argument of the language model but the vocabulary, and a width instead of a budget."""
    from ostinato.models.budget import sketch, solve_width
    from ostinato.models.named import entry_of

    entry = entry_of(model)
    arguments = {argument.name: argument for argument in entry.arguments if argument.name != "vocab_size"}
    if own := {"name": model["name"]} if "name" in model else {}:
        defaults = {"dim": MODEL["dim"]} if arguments["dim"].required else {}
    else:
        defaults = MODEL
    chosen = {name: value for name, value in defaults.items() if name != "dim"} | dict(model)
    params = chosen.pop("params", None)
    try:
        if params is not None:
            chosen["dim"], _ = solve_width(params, vocab_size, **chosen)
        chosen = defaults | chosen
        built = sketch(vocab_size, **chosen)
    except ValueError as error:
        raise ValueError(f"model: {error}") from None
    if own and not built.causal:
        raise ValueError(
            f"model.name: {own['name']} sees the whole sequence, so it cannot learn to predict the next token"
        )
    return own | {name: chosen.get(name, argument.default) for name, argument in arguments.items()}
