"""The baseline models against torch's own implementations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from baselines.models.attention import SoftmaxAttention
from baselines.models.bag_of_words import BagOfWords
from baselines.models.mlp import MLP
from baselines.models.residual_mlp import ResidualMLP
from baselines.models.transformer import Block, Transformer
from neurons.errors import UsageError
from neurons.manifold.heads import allowed
from neurons.specs import Batch, Context, InputSpec, OutputSpec

WIDTH, HEADS, STEPS = 16, 4, 9
MASK = torch.arange(STEPS) < torch.tensor([[STEPS], [4], [1]])


def attention(causal: bool, **options: object) -> SoftmaxAttention:
    torch.manual_seed(0)
    return SoftmaxAttention(width=WIDTH, causal=causal, heads=HEADS, **options)  # type: ignore[arg-type]


def inputs() -> torch.Tensor:
    return torch.randn(3, STEPS, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", [None, MASK])
def test_softmax_attention_equals_multihead_attention(causal: bool, mask: torch.Tensor | None) -> None:
    ours, x = attention(causal), inputs()
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.project.weight,
            "in_proj_bias": ours.project.bias,
            "out_proj.weight": ours.merge.weight,
            "out_proj.bias": ours.merge.bias,
        }
    )
    future = torch.ones(STEPS, STEPS, dtype=torch.bool).triu(1) if causal else None
    padding = None if mask is None else ~mask
    expected, _ = theirs(x, x, x, key_padding_mask=padding, attn_mask=future, need_weights=False)
    got = ours(x, Context(mask=mask))
    if mask is not None:
        assert not got[~mask].any()
        expected = expected.masked_fill(padding[..., None], 0.0)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_every_query_may_read_some_key(causal: bool) -> None:
    """Backends differ on a softmax over nothing; left padding and empty samples must not ask for one."""
    mask = torch.tensor([[True, True, True], [False, False, True], [False, False, False]])
    may = allowed(mask, 3, 3, causal, mask.device)
    assert may is not None
    may = may.expand(3, 1, 3, 3)[:, 0]
    assert may.any(-1).all()
    assert may[1].tolist() == (
        [[True, False, False], [False, True, False], [False, False, True]] if causal else [[False, False, True]] * 3
    )


def test_block_equals_torch_encoder_layer() -> None:
    torch.manual_seed(0)
    block = Block(attention(False), width=WIDTH, hidden=40, dropout=0.0)
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 40, dropout=0.0, activation="gelu", norm_first=True, batch_first=True
    )
    pairs = [
        (layer.self_attn.in_proj_weight, block.attention.project.weight),
        (layer.self_attn.in_proj_bias, block.attention.project.bias),
        (layer.self_attn.out_proj.weight, block.attention.merge.weight),
        (layer.self_attn.out_proj.bias, block.attention.merge.bias),
        (layer.linear1.weight, block.expand.weight),
        (layer.linear1.bias, block.expand.bias),
        (layer.linear2.weight, block.contract.weight),
        (layer.linear2.bias, block.contract.bias),
    ]
    with torch.no_grad():
        for norm in (block.norm, block.mlp_norm):
            norm.weight.uniform_(0.5, 1.5)
        for norm, ours in ((layer.norm1, block.norm), (layer.norm2, block.mlp_norm)):
            norm.load_state_dict(ours.state_dict())
        for target, source in pairs:
            target.copy_(source)
    x = inputs()
    expected = layer(x, src_key_padding_mask=~MASK).masked_fill(~MASK[..., None], 0.0)
    torch.testing.assert_close(block(x, Context(mask=MASK)), expected, rtol=1e-5, atol=1e-6)


def test_rotary_attention_turns_queries_and_keys_but_not_values() -> None:
    layer, x = attention(True, positions="rotary"), inputs()
    q, k, v = layer.project(x).view(3, STEPS, 3, HEADS, 4).permute(2, 0, 3, 1, 4).double()
    angle = torch.arange(STEPS, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.01], dtype=torch.float64)
    turn = torch.polar(torch.ones_like(angle), angle)
    turned_q, turned_k = (torch.complex(side[..., ::2], side[..., 1::2]) * turn for side in (q, k))
    scores = (turned_q @ turned_k.conj().transpose(-1, -2)).real / 2  # sqrt of the head size, 4
    future = torch.ones(STEPS, STEPS, dtype=torch.bool).triu(1)
    mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
    expected = layer.merge(mixed.transpose(1, 2).reshape(3, STEPS, WIDTH).float())
    torch.testing.assert_close(layer(x, Context()), expected, rtol=1e-4, atol=1e-5)


def test_attention_dropout_acts_in_training_only() -> None:
    layer, x = attention(False, dropout=0.5), inputs()
    plain = attention(False)
    assert not torch.allclose(layer(x, Context()), plain(x, Context()))
    torch.testing.assert_close(layer.eval()(x, Context()), plain(x, Context()))


@torch.no_grad()
@pytest.mark.parametrize("positions", ["none", "rotary", "alibi"])
@pytest.mark.parametrize("padded", [False, True])
def test_decoding_with_the_cache_equals_the_whole_sequence(positions: str, padded: bool) -> None:
    layer, x = attention(True, positions=positions), inputs()
    mask = MASK if padded else None
    whole, state, parts = layer(x, Context(mask=mask)), {}, []
    start = 0
    for size in (STEPS - 4, 1, 1, 2):
        chunk = slice(start, start + size)
        context = Context(mask=None if mask is None else mask[:, chunk], state=state)
        parts.append(layer(x[:, chunk], context))
        state, start = context.next_state, start + size
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=2e-6)
    assert sum(part.nbytes for part in state["softmax"][:2]) == 2 * 4 * x.numel()
    assert not layer(x, quiet := Context(keep_state=False)).requires_grad
    assert quiet.next_state == {}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("positions", ["none", "rotary", "alibi"])
def test_softmax_attention_is_a_well_behaved_mixer(causal: bool, positions: str) -> None:
    """Finite gradient at zero input and for an empty sample; bf16 autocast close to float32; compiles in one graph."""
    layer = attention(causal, positions=positions)
    empty = MASK.clone()
    empty[1] = False
    x = torch.zeros(3, STEPS, WIDTH, requires_grad=True)
    layer(x, Context(mask=empty)).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    x = inputs()
    expected = layer(x, Context(mask=MASK))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x, Context(mask=MASK)).float(), expected, rtol=0.05, atol=0.02)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, Context(mask=MASK)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("width", "heads", "positions"), [(16, 3, "none"), (12, 4, "rotary"), (16, 0, "none")])
def test_impossible_heads_are_refused(width: int, heads: int, positions: str) -> None:
    with pytest.raises(UsageError, match=r"softmax|rope"):
        SoftmaxAttention(width=width, causal=False, heads=heads, positions=positions)  # type: ignore[arg-type]


TOKENS = InputSpec("tokens", length=STEPS, size=7)


def test_transformer_size_by_hand() -> None:
    model = Transformer(input=TOKENS, output=OutputSpec("label", 3), width=8, layers=2, heads=2, ratio=4)
    block = (3 * 8 * 8 + 3 * 8) + (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8) + 2 * 16
    counts = model.parameter_counts()
    assert counts["non_embedding"] == 2 * block + 16 + (8 * 3 + 3)
    assert counts["total"] - counts["non_embedding"] == 7 * 8 + STEPS * 8
    assert len(model.stages) == 4


def test_transformer_initialisation_is_gpt2s_on_a_stream_of_unit_scale() -> None:
    torch.manual_seed(0)
    model = Transformer(input=InputSpec(size=5000), output=OutputSpec(), width=256, layers=8)
    block, embedding = model.stages[1], model.stages[0]
    for weight, std in [
        (embedding.embed.weight, 1 / 16),
        (embedding.position.weight, 0.02),
        (block.attention.project.weight, 0.02),
        (block.expand.weight, 0.02),
        (block.contract.weight, 0.02 / 4),
        (block.attention.merge.weight, 0.02 / 4),
    ]:
        assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert not block.contract.bias.any()
    x = torch.randint(0, 5000, (4, 64))
    assert embedding.eval()(x, Context()).std().item() == pytest.approx(math.hypot(1, 0.02 * 16), rel=0.05)


def test_feature_rows_enter_a_transformer_at_unit_scale() -> None:
    torch.manual_seed(0)
    model = Transformer(input=InputSpec("features", 16, 32), output=OutputSpec(), width=256, positions="rotary").eval()
    assert model.stages[0](torch.randn(64, 16, 32), Context()).std().item() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("option", ["dropout", "embedding_dropout", "attention_dropout"])
def test_each_dropout_of_the_transformer_acts(option: str) -> None:
    quiet = {"dropout": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0}
    torch.manual_seed(0)
    model = Transformer(input=TOKENS, output=OutputSpec(), **{**quiet, option: 0.5})
    batch = Batch(torch.arange(STEPS)[None] % 7, torch.zeros(1, dtype=torch.int64))
    torch.manual_seed(1)
    assert not torch.allclose(model(batch), model.eval()(batch), atol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_transformer_learns_what_only_order_tells(positions: str) -> None:
    """Which of two marks comes first: a reader of counts stays at chance."""
    random = torch.Generator().manual_seed(0)
    x = torch.randint(2, 7, (128, STEPS), generator=random)
    first = torch.randperm(STEPS - 1, generator=random).repeat(16)[:128]
    y = torch.arange(128) % 2
    rows = torch.arange(128)
    x[rows, first], x[rows, first + 1] = y, 1 - y
    torch.manual_seed(0)
    model = Transformer(input=TOKENS, output=OutputSpec(), width=32, layers=2, positions=positions, dropout=0.0)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        model.loss(Batch(x, y)).objective.div(128).backward()
        optimizer.step()
    assert (model.eval()(Batch(x, y)).argmax(1) == y).float().mean() > 0.95


@pytest.mark.parametrize("build", [Transformer, MLP])
def test_more_steps_than_the_input_spec_allows_is_a_usage_error(build: type) -> None:
    model = build(input=TOKENS, output=OutputSpec())
    with pytest.raises(UsageError, match=r"input\.length"):
        model(Batch(torch.zeros(1, STEPS + 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)))


def test_rotary_transformer_knows_no_longest_length() -> None:
    model = Transformer(input=TOKENS, output=OutputSpec(), positions="rotary")
    assert model(Batch(torch.zeros(1, 3 * STEPS, dtype=torch.int64), torch.zeros(1))).shape == (1, 2)


def test_bag_of_words_is_the_mean_embedding_read_linearly() -> None:
    torch.manual_seed(0)
    model = BagOfWords(input=TOKENS, output=OutputSpec(size=3), width=8).eval()
    x = torch.tensor([[1, 2, 2, 0, 0]])
    mask = torch.tensor([[True, True, True, False, False]])
    table, read = model.stages[0].embed.weight, model.readout
    mean = 8**0.5 * (table[1] + 2 * table[2]) / 3
    expected = read.linear(nn.functional.layer_norm(mean, (8,), read.norm.weight, read.norm.bias))
    torch.testing.assert_close(model(Batch(x, torch.zeros(1), mask))[0], expected)


def test_mlp_equals_a_sequential_over_the_flattened_sample() -> None:
    torch.manual_seed(0)
    model = MLP(input=InputSpec("features", length=3, size=4), output=OutputSpec(size=2), width=8, layers=3).eval()
    first, second, third, read = model.stages
    plain = nn.Sequential(
        first.linear, nn.GELU(), second.linear, nn.GELU(), third.linear, nn.GELU(), read.norm, read.linear
    )
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(model(Batch(x, torch.zeros(5))), plain(x.flatten(1)))


@pytest.mark.parametrize("build", [MLP, ResidualMLP, Transformer])
def test_no_layers_are_refused(build: type) -> None:
    with pytest.raises(UsageError, match="at least one layer, not 0"):
        build(input=InputSpec("tokens", 10, 8), output=OutputSpec("label", 3), layers=0)
