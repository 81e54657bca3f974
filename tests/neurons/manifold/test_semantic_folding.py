"""Semantic folding: causality by random suffixes, the map by dense algebra, offline fingerprints on known topics."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import convolve
from torch import Tensor, nn

from neurons.errors import UsageError
from neurons.manifold import sdr
from neurons.manifold.semantic_folding import SemanticFolding, SemanticRetina, grid, offline_fingerprints
from neurons.specs import Context


def build(gate: float = 0.1, **options: object) -> SemanticFolding:
    torch.manual_seed(0)
    wiring = {"width": 16, "causal": True, "size": 256, "active": 12}
    folding = SemanticFolding(**(wiring | options))  # type: ignore[arg-type]
    nn.init.constant_(folding.gate, gate)
    nn.init.normal_(folding.context.weight, std=0.5)
    return folding


def hidden(steps: int = 10, seed: int = 1) -> Tensor:
    return torch.randn(2, steps, 16, generator=torch.Generator().manual_seed(seed))


def test_it_starts_silent_and_every_parameter_learns() -> None:
    assert not build(0.0)(hidden(), Context()).any()
    folding = build()
    folding(hidden(), Context()).square().sum().backward()
    assert [name for name, p in folding.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_no_suffix_reaches_the_past() -> None:
    folding, x = build(), hidden()
    before = folding(x, Context())
    for t in range(1, 10):
        noisy = torch.cat([x[:, :t], hidden(seed=2)[:, t:]], 1)
        torch.testing.assert_close(folding(noisy, Context())[:, :t], before[:, :t], rtol=0, atol=1e-6)
        assert (folding(noisy, Context())[:, t] - before[:, t]).abs().max() > 1e-4


def test_chunks_give_the_whole_and_padding_is_silent() -> None:
    folding, x, state, parts = build(), hidden(), {}, []
    for piece in x.split([1, 3, 6], 1):
        context = Context(state=state)
        parts.append(folding(piece, context))
        state = context.next_state
    torch.testing.assert_close(torch.cat(parts, 1), folding(x, Context()), rtol=0, atol=1e-6)
    mask = torch.arange(10) < torch.tensor([[10], [4]])
    out = folding(x, Context(mask=mask))
    assert not out[~mask].any()
    torch.testing.assert_close(out[1, :4], folding(x[1:, :4], Context())[0], rtol=0, atol=1e-6)


def test_the_bits_are_the_best_of_dense_scores() -> None:
    folding, x = build(smooth=False), hidden()
    heard = folding.context(x, Context())
    unit = heard / heard.square().mean(-1, keepdim=True).add(1e-5).sqrt()
    scores = unit @ folding.receptive.weight.T
    index, grade = folding.encode(x, Context())
    best = scores.topk(12, -1)
    assert torch.equal(index.long(), best.indices.sort(-1).values)
    dense = torch.zeros_like(scores).scatter(-1, best.indices, best.values.sigmoid())
    torch.testing.assert_close(folding(x, Context()), 0.1 * dense @ folding.read.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grade.sum(-1), dense.sum(-1), rtol=1e-5, atol=0)


def test_the_retina_is_a_convolution_on_a_torus() -> None:
    retina = SemanticRetina(96)
    assert retina.shape == (8, 12)
    nn.init.normal_(retina.kernel)
    scores = torch.randn(3, 96)
    for row in range(3):
        kernel = retina.kernel.detach().numpy()[::-1, ::-1]  # scipy turns it, torch correlates
        wanted = convolve(scores[row].view(8, 12).numpy(), kernel, mode="wrap").ravel()
        torch.testing.assert_close(retina(scores)[row], torch.from_numpy(wanted.copy()), rtol=1e-4, atol=1e-5)


def test_the_retina_makes_patches_and_is_read() -> None:
    x, pairs = hidden(40), {}
    for smooth in (False, True):
        index = build(smooth=smooth).fingerprint(x, Context()).long()
        image = sdr.to_dense(index, 256).view(-1, *grid(256))
        pairs[smooth] = float((image & image.roll(1, -1)).sum() + (image & image.roll(1, -2)).sum())
    assert pairs[True] > 2 * pairs[False]
    folding = build()
    full = folding(x, Context())
    folding.retina = None
    assert (folding(x, Context()) - full).abs().max() > 1e-3


def test_similar_contexts_share_bits() -> None:
    folding, x = build(), hidden(50)
    near = sdr.overlap(folding.fingerprint(x, Context()), folding.fingerprint(x + 0.1 * hidden(50, 5), Context()))
    far = sdr.overlap(folding.fingerprint(x, Context()), folding.fingerprint(hidden(50, 6), Context()))
    assert near.double().mean() > 9
    assert far.double().mean() < 4


def test_only_the_chosen_bits_are_kept_for_backward() -> None:
    folding, kept, x = build(size=2048, active=40), [], torch.randn(1, 256, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        folding(x, Context())
    assert all(shape.numel() < 256 * 2048 for shape in kept)
    of_tokens = [shape.numel() for shape in kept if 256 in shape[:2]]
    assert sum(of_tokens) < 256 * 16 * 18


def test_an_episode_moves_the_duty_cycle() -> None:
    folding = build()
    before = folding.boosting.duty.clone()
    folding.eval()(hidden(), Context())
    folding.end_episode()
    assert torch.equal(folding.boosting.duty, before)
    folding.train()(hidden(), Context())
    assert torch.equal(folding.boosting.duty, before)
    folding.end_episode()
    assert not torch.equal(folding.boosting.duty, before)


def test_words_of_one_topic_share_their_fingerprint() -> None:
    random = torch.Generator().manual_seed(0)
    topics, words, contexts = 4, 40, 400
    word_topic, context_topic = torch.arange(words) % topics, torch.arange(contexts) % topics
    rate = torch.where(word_topic[:, None] == context_topic, 1.0, 0.05)
    counts = torch.poisson(rate, generator=random)
    found = offline_fingerprints(counts, size=256, active=12)
    shared = sdr.overlap(found[:, None], found[None]).double()
    same = word_topic[:, None] == word_topic
    assert shared[same & ~torch.eye(words, dtype=torch.bool)].mean() > 3 * shared[~same].mean()


def test_impossible_maps_are_refused() -> None:
    with pytest.raises(UsageError, match="fewer active bits"):
        build(active=256)
    with pytest.raises(UsageError, match="no map with 3 rows"):
        build(size=251)
    with pytest.raises(UsageError, match="matrix of counts"):
        offline_fingerprints(torch.zeros(3, 4))
