"""Writing with a hand on the state: some of its numbers have the values that one gives them, at every token.

    s_{t-1}[unit] = value;   logits_t, s_t = model(x_t, s_{t-1});   s_t[unit] = value

    step = StateOverride(model, {"stack.layers.0.mixer.c": {17: 2.0}})
    for token, state in stream(model, prompts, 100, sampler, step=step): ...

Radford, Jozefowicz, Sutskever 2017, https://arxiv.org/abs/1704.01444, write favourable reviews and others so.
"""

from collections.abc import Mapping

from torch import Tensor

from ostinato.contract import SequenceModule
from ostinato.generate.decode import Step
from ostinato.registry import did_you_mean, register
from ostinato.state import State, map_state, named_leaves

Override = Mapping[str, Mapping[int, float]]
"""For tensors of the state, by name, the values of some of their numbers: {"stack.layers.0.mixer.c": {17: 2.0}}."""


def overridden(state: State, values: Override) -> State:
    """The state with these numbers in place of its own; numbers of a row are counted as if its tensor was flat."""
    names = iter([name for name, _ in named_leaves(state)])

    def given(leaf: Tensor) -> Tensor:
        chosen = values.get(next(names))
        if not chosen:
            return leaf
        flat = leaf.flatten(1).clone()
        for unit, value in chosen.items():
            flat[:, unit] = value
        return flat.view(leaf.shape)

    return map_state(given, state)


@register("decode:state_override", paper="sentiment_neuron")
class StateOverride:
    """Reads the next tokens as a model does, with some numbers of its state held; a step for `ostinato.generate.stream`.

    model: a causal model
    values: for tensors of its state, by name, the number of a unit and the value that it shall have
    step: what reads in place of the model: `compile_step(model)`
    """

    def __init__(self, model: SequenceModule, values: Override, *, step: Step | None = None):
        begin = dict(named_leaves(model.initial_state(1)))
        for name, chosen in values.items():
            if name not in begin:
                raise ValueError(f"the state has no {name!r}{did_you_mean(name, begin)}; it has {', '.join(begin)}")
            units = begin[name].flatten(1).shape[1]
            for unit in chosen:
                if not 0 <= unit < units:
                    raise ValueError(f"{name} has the units 0 to {units - 1}; got {unit}")
        self.model, self.values, self.step = model, values, step or model

    def __call__(
        self, tokens: Tensor, state: State | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, State | None]:
        """Read tokens one after the other: (B, T) -> what the model says to the last, (B, 1, E), and the state."""
        state = self.model.initial_state(len(tokens)) if state is None else state
        y = None
        for t in range(tokens.shape[1]):
            begins = None if reset is None else reset[:, t : t + 1]
            y, after = self.step(tokens[:, t : t + 1], overridden(state, self.values), begins)
            assert after is not None
            state = overridden(after, self.values)
        assert y is not None
        return y, state
