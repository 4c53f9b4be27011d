import pytest
import torch

from arcvq import SAMP, SphericalQuantizer
from arcvq.plain import PlainSphericalQuantizer, plain_margin_loss
from arcvq.samp import arc_margin_loss
from arcvq.speed import MIB, margin_costs, peak_memory, side_by_side


def test_the_plain_loss_is_the_streaming_one():
    latents, codebook = torch.randn(200, 8, requires_grad=True), torch.randn(12, 8)
    plain, ours = (loss(latents, codebook, margin=0.2, scale=5.0, top_k=3)
                   for loss in (plain_margin_loss, arc_margin_loss))
    assert plain.item() == pytest.approx(ours.item(), rel=1e-5)
    one, other = (torch.autograd.grad(loss, latents)[0] for loss in (plain, ours))
    assert (one - other).norm() <= 1e-4 * other.norm()


def test_the_plain_quantizer_takes_the_step_of_the_spherical_one():
    torch.manual_seed(3)
    plain = PlainSphericalQuantizer(16, 4, SAMP(scale=5.0))
    ours = SphericalQuantizer(16, 4, SAMP(scale=5.0))
    ours.load_state_dict(plain.state_dict())
    latents = torch.randn(2, 4, 5, 5)
    one, other = plain(latents), ours(latents)
    assert torch.equal(one.indices, other.indices) and torch.allclose(one.codes, other.codes, atol=1e-6)
    assert one.loss.item() == pytest.approx(other.loss.item(), rel=1e-5)
    assert torch.equal(plain.counts, ours.counts)


def test_side_by_side_gives_a_positive_time_for_each_action_in_each_round():
    calls = []
    times = side_by_side({"one": lambda: calls.append(1), "two": lambda: calls.append(2)}, repeats=3)
    assert calls == [1, 2] * 4 and times.shape == (3, 2) and (times > 0).all(axis=None)


def test_peak_memory_counts_what_lives_at_once_and_not_what_was_there():
    given = torch.ones(MIB)  # 4 MiB

    def action():
        first = given + 1
        second = first * 2
        del first
        return second.view(-1)[1:] + 1

    assert peak_memory(action, given) == pytest.approx(8 * MIB, abs=8)
    assert peak_memory(lambda: given.view(-1, 2).T.add_(1), given) == 0


def test_the_streaming_loss_holds_less_than_the_plain_one_and_costs_are_positive():
    table = margin_costs([(64, 20_000), (128, 300)], dim=8, repeats=1)
    assert list(table.num_codes) == [64, 128] and (table[["floor", "loss", "plain", "lookup"]] > 0).all(axis=None)
    assert 0 < table.memory[0] < table.plain_memory[0] / 3
