"""Models as papers built them: `model:xlstm`, `model:griffin`, ... at the sizes of their papers.

    x = embedding;   for each block:   x = x + mixer(norm(x)),   x = x + mlp(norm(x));   logits = head(norm(x))

Each is the language model with arguments from the table in `layouts.py`; any of them can be given another value.

    ostinato.create("model:xlstm", vocab_size=256, size="small")
    model: {name: xlstm, size: small, layers: 6}          in the config of a run
    model: {name: awd_lstm, dim: 400, layers: 3}          a model with a class of its own, without sizes
"""

from collections.abc import Mapping
from inspect import Parameter, isclass, signature
from typing import Any, ClassVar

from ostinato.models.language_model import LanguageModel
from ostinato.models.layouts import LAYOUTS, Layout
from ostinato.registry import Entry, create, did_you_mean, entries, find, register

SIZE = "small"
"""The size of a model whose size is not said."""


def named(name: str, size: str | None = None) -> dict[str, Any]:
    """Arguments of the language model that a paper's model is; its vocabulary is not among them.

    name: of the model: xlstm, griffin, ...
    size: "tiny", "small" or "base"; by default "small"
    """
    layout = LAYOUTS.get(name.removeprefix("model:")) if isinstance(name, str) else None
    if layout is None:
        known = sorted([*LAYOUTS, *own_models()])
        hint = did_you_mean(str(name), known)
        raise ValueError(f"there is no model {name!r}{hint}; models with a name are {', '.join(known)}")
    return layout.arguments(SIZE if size is None else size)


def own_models() -> list[str]:
    """Names of the language models that are more than arguments of the usual one: awd_lstm, sha_rnn, ..."""
    classes = {entry.name: entry.target for entry in entries("model") if isclass(entry.target)}
    return [
        name for name, own in classes.items() if LanguageModel in own.__mro__[1:] and not issubclass(own, NamedModel)
    ]


def entry_of(model: Mapping[str, Any]) -> Entry:
    """The entry of the model that a config describes: the one that it names, or the usual language model."""
    return find(f"model:{model.get('name', 'language_model')}")


def build(vocab_size: int, **model: Any) -> LanguageModel:
    """The model that a config describes, with fresh weights."""
    name = model.pop("name", "language_model")
    return create(f"model:{name}", vocab_size=vocab_size, **model)


class NamedModel(LanguageModel):
    """The language model of a paper."""

    layout: ClassVar[Layout]

    def __init__(self, vocab_size: int, *, size: str = SIZE, **changes: Any):
        super().__init__(vocab_size, **(self.layout.arguments(size) | changes))


class _AsSized:
    """The default of an argument that the size decides."""

    def __repr__(self) -> str:
        return "as the size says"


def _class(layout: Layout) -> type[NamedModel]:
    """The class of a named model, which takes a size and all that the language model takes."""
    given = Entry("model", "language_model", LanguageModel, ()).arguments
    sized, meaning = _AsSized(), f"one of {', '.join(layout.sizes)}"
    lines = [f"{given[0].name}: {given[0].meaning}", f"size: {meaning}"]
    lines += [f"{argument.name}: {argument.meaning}" for argument in given[1:]]
    init = list(signature(LanguageModel).parameters.values())
    parameters = [init[0], Parameter("size", Parameter.KEYWORD_ONLY, default=SIZE, annotation=str)]
    parameters += [each.replace(kind=Parameter.KEYWORD_ONLY, default=sized) for each in init[1:]]
    return type(
        "".join(word.capitalize() for word in layout.name.split("_")) + "Model",
        (NamedModel,),
        {
            "__doc__": f"{layout.summary}.\n\n{layout.note}\n\n".replace("\n\n\n\n", "\n\n") + "\n".join(lines),
            "__module__": __name__,
            "__signature__": signature(LanguageModel).replace(parameters=parameters),
            "layout": layout,
            "examples": (dict(vocab_size=11, size="tiny"),),
        },
    )


for _layout in LAYOUTS.values():
    _made = _class(_layout)
    globals()[_made.__name__] = _made  # where pickle looks for it
    register(f"model:{_layout.name}", paper=_layout.papers)(_made)
