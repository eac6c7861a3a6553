"""TPGN: its two branches against convolutions of torch, and what it forecasts better than others."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv1d, pad
from torch.testing import assert_close

import ostinato


def tpgn(**arguments):
    torch.manual_seed(0)
    return ostinato.create("model:tpgn", **(dict(dim=1, period=4, periods=3, horizon=6, hidden=5) | arguments)).double()


def test_it_equals_convolutions_over_periods_and_phases():
    """As one channel with marks, by torch's convolutions: over the periods of a phase, and over the phases of a period."""
    model, R, P, F, K = tpgn(dim=3, marks=2), 3, 4, 3, 5
    x = torch.randn(2, R * P, 3, dtype=torch.float64)
    mean, std = x[..., :1].mean(1, keepdim=True), (x[..., :1].var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    grid = torch.cat([(x[..., :1] - mean) / std, x[..., 1:]], -1).view(2, R, P, F)

    series = grid.permute(0, 2, 3, 1).flatten(0, 1)  # 2 P, F, R
    taps = model.pgn.project_window.weight.view(K, R - 1, F).mT
    H = conv1d(pad(series, (R - 1, 0))[..., :-1], taps, model.pgn.project_window.bias)
    gates = conv1d(torch.cat([series, H], 1), model.pgn.project_gates.weight[..., None], model.pgn.project_gates.bias)
    G, new = gates[:, :K].sigmoid(), gates[:, K:].tanh()
    out = G * H + (1 - G) * new
    long = conv1d(out, model.project_periods.weight.view(K, R, K).mT, model.project_periods.bias)[..., 0].view(2, P, K)

    rows = grid.permute(0, 1, 3, 2).flatten(0, 1)  # 2 R, F, P
    row = conv1d(rows, model.project_row.weight.view(K, P, F).mT, model.project_row.bias)[..., 0].view(2, R, K)
    short = conv1d(row.mT, model.project_column.weight.view(K, R, K).mT, model.project_column.bias)[..., 0]

    expected = torch.stack(
        [
            model.project_out.weight[i] @ torch.cat([short[b], long[b, p]]) + model.project_out.bias[i]
            for b in range(2)
            for i in range(2)
            for p in range(P)
        ]
    ).view(2, 8, 1)[:, :6]
    assert_close(model.forecast(x), expected * std + mean)


def test_a_forecast_is_what_the_last_token_says():
    model = tpgn(dim=2)
    x = torch.randn(3, 40, 2, dtype=torch.float64)
    y, _ = model(x)
    assert_close(y[:, -1].view(3, 6, 2), model.forecast(x))
    assert_close(y[:, -1].view(3, 6, 2), model.forecast(x[:, -12:]), msg="it looks back on 12 values")
    assert_close(y[:, 4].view(3, 6, 2), model.forecast(x[:, :5]), msg="or on those that there are")


def test_the_layout_goes_there_and_back():
    """Where nothing is learned but that a phase goes on as in the last period, a period is forecast value by value."""
    model = tpgn(periods=2, hidden=1, horizon=8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.pgn.project_gates.bias.copy_(torch.tensor([-50.0, 0.0]))  # the candidate alone
        model.pgn.project_gates.weight[1, 0] = 1e-4  # tanh of little is that
        model.project_periods.weight[0, 1] = 1e4
        model.project_out.weight[:, 1] = 1.0
    x = torch.randn(1, 8, 1, dtype=torch.float64)
    assert_close(model.forecast(x), torch.cat([x[:, 4:], x[:, 4:]], 1), rtol=1e-5, atol=1e-5)


def test_level_and_scale_of_a_series_do_not_matter():
    model = tpgn(eps=0.0)
    x = torch.randn(2, 12, 1, dtype=torch.float64)
    assert_close(model.forecast(7 * x - 30), 7 * model.forecast(x) - 30)


def test_it_forecasts_periods_better_than_the_last_period_and_a_gru():
    """Series of one period, with a slope and noise: naive repeats the last period, and a GRU learns for as long."""
    P, R = 6, 5
    torch.manual_seed(0)

    def series(n):
        shape, slope = torch.randn(n, 1, P), 0.5 * torch.randn(n, 1, 1)
        whole = (shape + slope * torch.arange(R + 1.0)[:, None]).flatten(1)
        return (whole + 0.5 * torch.randn(n, (R + 1) * P))[..., None]

    class GRU(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.out = nn.GRU(1, 32, batch_first=True), nn.Linear(32, P)

        def forecast(self, x):
            mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
            return self.out(self.gru((x - mean) / std)[0][:, -1])[..., None] * std + mean

    def error(model):
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(150):
            whole = series(64)
            loss = (model.forecast(whole[:, :-P]) - whole[:, -P:]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return (model.forecast(test[:, :-P]) - test[:, -P:]).square().mean().item()

    test = series(500)
    naive = (test[:, -2 * P : -P] - test[:, -P:]).square().mean().item()
    ours = error(ostinato.create("model:tpgn", dim=1, period=P, periods=R, horizon=P, hidden=16))
    gru = error(GRU())
    assert ours < 0.8 * naive
    assert ours < 0.8 * gru


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(periods=1), "periods at least 2"),
        (dict(marks=1), "fewer than all; got 1"),
        (dict(horizon=0), "at least 1"),
    ],
)
def test_refused_with_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        tpgn(**arguments)
