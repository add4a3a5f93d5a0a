"""A vocabulary's product in 8 bits: what has to be exact is, and no row depends on the others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from speechmeta.decoding.shortlist import EXACT, LEAST_WEIGHTS, Shortlist

WIDTH = 96
VOCABULARY = LEAST_WEIGHTS // WIDTH + 1

pytestmark = pytest.mark.skipif(
    torch.backends.quantized.engine not in ("x86", "fbgemm"),
    reason="PyTorch has no such products for this processor",
)


@pytest.fixture(scope="module")
def head() -> nn.Linear:
    torch.manual_seed(5)
    return nn.Linear(WIDTH, VOCABULARY, bias=False).requires_grad_(False)


def states(rows: int, seed: int = 6) -> torch.Tensor:
    # Sizes that differ by row, and a column that stands out, as Whisper's have one.
    made = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))
    made[:, 7] *= 9
    return made * torch.logspace(-2, 1.5, rows)[:, None]


def test_the_likeliest_are_exact_and_the_others_near(head: nn.Linear) -> None:
    hidden = states(7)
    exact, found = head(hidden), Shortlist(head)(hidden)
    best = exact.topk(8)
    assert torch.equal(found.topk(8).indices, best.indices)
    torch.testing.assert_close(found.topk(8).values, best.values)
    deviation = exact.std(1, keepdim=True)
    assert float(((found - exact).abs() / deviation).max()) < 0.2
    equal = torch.isclose(found, exact, rtol=1e-5, atol=1e-6).sum(1)
    assert int(equal.min()) >= EXACT
    torch.testing.assert_close(found.logsumexp(-1), exact.logsumexp(-1), rtol=0, atol=0.002)


def test_wanted_logits_are_exact(head: nn.Linear) -> None:
    hidden = states(3)
    exact = head(hidden)
    wanted = [(place, int(exact[place].argmin())) for place in (0, 2, 2)] + [(1, 11)]
    found = Shortlist(head)(hidden, wanted)
    for place, token in wanted:
        torch.testing.assert_close(found[place, token], exact[place, token])


def test_no_row_depends_on_the_others(head: nn.Linear) -> None:
    hidden, product = states(5), Shortlist(head)
    together = product(hidden)
    for row in range(5):
        torch.testing.assert_close(product(hidden[row : row + 1])[0], together[row])


def test_numbers_that_are_not_finite_stay_so(head: nn.Linear) -> None:
    hidden = states(2)
    hidden[1, 3] = torch.nan
    found = Shortlist(head)(hidden)
    assert bool(found[0].isfinite().all())
    assert bool(found[1].max().isnan())


def test_a_row_of_zeros_says_nothing(head: nn.Linear) -> None:
    assert not bool(Shortlist(head)(torch.zeros(1, WIDTH)).any())


def test_where_it_fits(head: nn.Linear) -> None:
    assert Shortlist.fits(head)
    assert not Shortlist.fits(nn.Linear(WIDTH, VOCABULARY))
    assert not Shortlist.fits(nn.Linear(WIDTH, 100, bias=False))
    with torch.device("meta"):
        assert not Shortlist.fits(nn.Linear(WIDTH, VOCABULARY, bias=False))
    half = nn.Linear(WIDTH, VOCABULARY, bias=False, dtype=torch.bfloat16)
    assert not Shortlist.fits(half)
