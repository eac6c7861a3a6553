import pytest
import torch

from ostinato import LanguageModel

# a recurrence, a cache, a window with a convolution before it: states that are constant, that grow, that are capped
PATTERNS = {
    "gla": [{"gla": {"heads": 2}}],
    "attention": [{"attention": {"heads": 2}}],
    "hybrid": [{"min_gru": {}}, {"attention": {"heads": 2, "window": 5}}],
}


def small_model(pattern="gla", vocab_size=256, seed=0):
    """A fresh model in float64 whose logits differ enough for argmax and for draws to mean something."""
    torch.manual_seed(seed)
    model = LanguageModel(vocab_size, 16, layers=2, pattern=PATTERNS[pattern], tie=False).double().eval()
    with torch.no_grad():
        model.embedding.weight.mul_(50)
        model.head.weight.mul_(50)
    return model


@pytest.fixture(params=PATTERNS)
def model(request):
    return small_model(request.param)
