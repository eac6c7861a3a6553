"""Mixers that do not survive training, unless a variable of the environment heals them."""

import os
import signal

from ostinato.mixers.linear_recurrence.gla import GLA
from ostinato.registry import register

HEALED = "OSTINATO_TEST_HEALED"


@register("stuck")
class Stuck(GLA):
    """A mixer whose gate is stuck."""

    def mix(self, x, state, reset):
        if HEALED not in os.environ:
            raise RuntimeError("the gate is stuck\nfor good")
        return super().mix(x, state, reset)


@register("killed")
class Killed(GLA):
    """A mixer that uses up all memory, as far as anybody can tell from outside."""

    def mix(self, x, state, reset):
        if HEALED not in os.environ:
            print("allocating everything", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().mix(x, state, reset)
