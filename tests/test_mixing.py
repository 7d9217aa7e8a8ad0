"""The laws of mixtures: golden values and what must hold for any numbers."""

from __future__ import annotations

import pytest
import torch

from clbench.parts import (
    aioli_graph,
    aioli_weights,
    law_losses,
    log_linear_losses,
    normalised_graph,
    probe_mixtures,
    skill_weights,
)

GRAPH = torch.tensor(
    [[1, 0, 0, 0, 0], [0.5, 1, 0.5, 0.5, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]],
    dtype=torch.float64,
)
LOSSES = torch.tensor([0.1, 0.5, 1.0, 2.0, 1.5], dtype=torch.float64)
DROPS = torch.tensor([[0.30, 0.05, 0.02], [0.04, 0.25, 0.06], [0.01, 0.03, 0.40]], dtype=torch.float64)


def test_skill_it() -> None:
    start = [0.1635, 0.3461, 0.1635, 0.1635, 0.1635]
    assert skill_weights(GRAPH, [], 0.5).tolist() == pytest.approx(start, abs=5e-5)
    later = [0.0204, 0.3807, 0.0788, 0.3532, 0.1668]
    assert skill_weights(GRAPH, [LOSSES] * 3, 0.5).tolist() == pytest.approx(later, abs=1e-4)
    assert skill_weights(GRAPH, [LOSSES], 0.0).tolist() == pytest.approx([0.2] * 5)
    alone = skill_weights(torch.eye(5, dtype=torch.float64), [LOSSES, LOSSES], 1.0)
    torch.testing.assert_close(alone, (2 * LOSSES).softmax(0))


def test_a_shift_of_all_losses_cancels_only_where_rows_have_equal_sums() -> None:
    uneven, even = GRAPH, torch.eye(5, dtype=torch.float64)
    for graph, cancels in ((uneven, False), (even, True)):
        p, q = skill_weights(graph, [LOSSES], 0.5), skill_weights(graph, [LOSSES + 1], 0.5)
        assert torch.allclose(p, q) is cancels


def test_aioli() -> None:
    graph = aioli_graph(DROPS, 0.625)
    expected = [
        [0.52714286, -0.04428571, -0.11285714],
        [-0.05857143, 0.42142857, -0.01285714],
        [-0.16571429, -0.12, 0.72571429],
    ]
    torch.testing.assert_close(graph, torch.tensor(expected, dtype=torch.float64), atol=1e-8, rtol=0)
    torch.testing.assert_close(graph @ probe_mixtures(3, 0.625), DROPS)
    graph = normalised_graph(graph)
    assert graph.sum(0).tolist() == pytest.approx([0.30172414, 0.28448276, 0.41379310], abs=1e-8)
    first = aioli_weights(graph, 0.2)
    assert first.tolist() == pytest.approx([0.33121088, 0.33007074, 0.33871839], abs=1e-8)
    again = aioli_weights(graph, 0.2, first)
    assert again.tolist() == pytest.approx([0.32905835, 0.32679679, 0.34414486], abs=1e-8)


def test_what_holds_for_any_drops() -> None:
    torch.testing.assert_close(aioli_graph(DROPS, 1.0), DROPS)
    constant = torch.full((3, 3), 0.2, dtype=torch.float64)
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(aioli_weights(normalised_graph(aioli_graph(constant, 0.625)), 0.2), uniform)
    torch.testing.assert_close(aioli_weights(DROPS, 0.0), uniform)
    order = [2, 0, 1]
    drawn = aioli_weights(normalised_graph(aioli_graph(DROPS[order][:, order], 0.7)), 0.2)
    torch.testing.assert_close(drawn, aioli_weights(normalised_graph(aioli_graph(DROPS, 0.7)), 0.2)[order])
    torch.testing.assert_close(normalised_graph(torch.zeros_like(DROPS)), torch.full_like(DROPS, 1 / 9))
    assert probe_mixtures(1, 0.5).tolist() == [[1.0]]


def test_laws() -> None:
    c, graph = torch.tensor([1.0, 2.0]), torch.tensor([[0.5, 0.1], [0.2, 0.4]])
    p = torch.tensor([0.2, 0.8])
    torch.testing.assert_close(law_losses(c, graph, p), torch.tensor([0.82, 1.64]))
    expected = c + torch.tensor([2.0, 3.0]) * torch.exp(-torch.tensor([0.18, 0.36]))
    torch.testing.assert_close(log_linear_losses(c, torch.tensor([2.0, 3.0]), graph, p), expected)
