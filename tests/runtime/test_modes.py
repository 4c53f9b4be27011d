import pytest
from torch import nn

from arcvq.runtime.modes import evaluation_mode


def modes(module):
    return [part.training for part in module.modules()]


@pytest.fixture
def network():
    """A training network, two parts of which are in evaluation mode; one lies inside the other."""
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)))
    network[1].eval()
    network[1][1].train()
    return network


def test_inside_all_parts_are_in_evaluation_mode_and_afterwards_each_is_in_its_own(network):
    assert modes(network) == [True, True, False, False, True]
    with evaluation_mode(network):
        assert modes(network) == [False] * 5
    assert modes(network) == [True, True, False, False, True]


def test_an_error_inside_leaves_the_modes_as_they_were(network):
    with pytest.raises(RuntimeError, match="inside"), evaluation_mode(network):
        raise RuntimeError("inside")
    assert modes(network) == [True, True, False, False, True]


def test_a_network_in_evaluation_mode_stays_so(network):
    network.eval()
    with evaluation_mode(network):
        pass
    assert modes(network) == [False] * 5


def test_contexts_inside_one_another_end_one_by_one(network):
    with evaluation_mode(network[1]):
        with evaluation_mode(network):
            pass
        assert modes(network) == [True, True, False, False, False]
    assert modes(network) == [True, True, False, False, True]


def test_a_part_in_two_places_gets_its_mode_back():
    shared = nn.Linear(2, 2).eval()
    network = nn.Sequential(shared, nn.Sequential(shared)).train()
    shared.eval()
    with evaluation_mode(network):
        pass
    assert modes(network) == [True, False, True]
