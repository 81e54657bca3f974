"""What every registered model owes, whatever it is made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import baselines  # noqa: F401 - extends MODELS and ATTENTIONS with the baselines
from neurons import ATTENTIONS, MODELS
from neurons.errors import UsageError
from neurons.model import Attention, Model
from neurons.specs import IGNORE, Batch, InputSpec, OutputSpec

LENGTH, SYMBOLS, FEATURES = 12, 11, 5
INPUTS = {
    "tokens": InputSpec("tokens", length=LENGTH, size=SYMBOLS),
    "features": InputSpec("features", length=LENGTH, size=FEATURES),
}
OUTPUTS = {"label": OutputSpec("label", 3), "token": OutputSpec("token", SYMBOLS)}
ORDER_BLIND = {"bag-of-words"}


def build(name: str, input_kind: str, output_kind: str, seed: int = 0, **options: object) -> Model:
    torch.manual_seed(seed)
    model = MODELS.build(name, input=INPUTS[input_kind], output=OUTPUTS[output_kind], **options)
    open_gates(model)
    return model.eval()


def open_gates(model: nn.Module) -> None:
    """Components that start silent start by a zero parameter named ``gate``; the contract looks at them speaking."""
    for name, parameter in model.named_parameters():
        if name.rsplit(".", 1)[-1] == "gate":
            nn.init.constant_(parameter, 0.1)


def unsettle(model: Model) -> Model:
    """As after training: no bias is zero, so that whatever passes a masked position leaves a trace there."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.full_like(parameter, 0.05))
    return model


def supported() -> list[tuple[str, str, str]]:
    cases = []
    for name in MODELS.names():
        for input_kind in INPUTS:
            for output_kind in OUTPUTS:
                if (input_kind, output_kind) == ("features", "token"):
                    continue
                try:
                    build(name, input_kind, output_kind)
                except UsageError:
                    continue
                cases.append((name, input_kind, output_kind))
    return cases


CASES = supported()
TOKEN_CASES = [case for case in CASES if case[2] == "token"]
KEYS = ("name", "input_kind", "output_kind")
contract = pytest.mark.parametrize(KEYS, CASES, ids=["-".join(case) for case in CASES])
causal = pytest.mark.parametrize(KEYS, TOKEN_CASES, ids=["-".join(case) for case in TOKEN_CASES])


def sample(input_kind: str, output_kind: str, *, steps: int = LENGTH, count: int = 4, padded: bool = True) -> Batch:
    """Noise with right padding of different lengths; what lies under the padding is noise too."""
    random = torch.Generator().manual_seed(1)
    if input_kind == "tokens":
        x = torch.randint(0, SYMBOLS, (count, steps), generator=random)
    else:
        x = torch.randn(count, steps, FEATURES, generator=random)
    y = torch.randint(0, 3, (count,), generator=random)
    if output_kind == "token":
        y = torch.randint(0, SYMBOLS, (count, steps), generator=random)
        y[:, 0] = IGNORE
    if not padded:
        return Batch(x, y)
    lengths = torch.tensor([steps, steps - 1, steps - 5, 2])[:count]
    return Batch(x, y, torch.arange(steps) < lengths[:, None])


def noise(x: torch.Tensor) -> torch.Tensor:
    random = torch.Generator().manual_seed(2)
    if x.dtype == torch.int64:
        return (x + torch.randint(1, SYMBOLS, x.shape, generator=random)) % SYMBOLS
    return x + torch.randn(x.shape, generator=random)


def test_every_model_supports_something_and_refuses_in_one_line() -> None:
    assert {name for name, _, _ in CASES} == set(MODELS.names())
    for name in MODELS.names():
        for output_kind in OUTPUTS:
            if (name, "tokens", output_kind) not in CASES:
                with pytest.raises(UsageError, match=r"^[^\n]+$"):
                    build(name, "tokens", output_kind)


@contract
def test_forward_is_the_composition_of_the_stages(name: str, input_kind: str, output_kind: str) -> None:
    model, batch = build(name, input_kind, output_kind), sample(input_kind, output_kind)
    context = model.context(batch)
    x = batch.x
    for stage in model.stages:
        before = x.clone()
        y = stage(x, context)
        torch.testing.assert_close(x, before, rtol=0, atol=0)  # a stage never writes into its input
        torch.testing.assert_close(stage(x, context), y, rtol=0, atol=0)  # and has no memory of its own
        x = y
    torch.testing.assert_close(x, model(batch), rtol=0, atol=0)
    expected = (4, 3) if output_kind == "label" else (4, LENGTH, SYMBOLS)
    assert tuple(x.shape) == expected


@contract
def test_loss_is_the_cross_entropy_of_the_logits(name: str, input_kind: str, output_kind: str) -> None:
    model, batch = build(name, input_kind, output_kind), sample(input_kind, output_kind)
    target = batch.y if output_kind == "label" else batch.y.masked_fill(~batch.mask, IGNORE)
    loss = model.loss(batch)
    expected = nn.functional.cross_entropy(model(batch).flatten(0, -2), target.flatten(), reduction="sum")
    assert loss.count == int((target != IGNORE).sum())
    torch.testing.assert_close(loss.reported, expected.detach())
    assert not loss.reported.requires_grad


@contract
def test_every_trainable_parameter_gets_a_gradient(name: str, input_kind: str, output_kind: str) -> None:
    model, batch = build(name, input_kind, output_kind), sample(input_kind, output_kind)
    model.loss(batch).objective.backward()
    silent = [key for key, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert silent == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@contract
def test_an_empty_sample_gives_finite_gradients(name: str, input_kind: str, output_kind: str) -> None:
    model, batch = build(name, input_kind, output_kind), sample(input_kind, output_kind)
    mask = batch.mask.clone()
    mask[-1] = False
    x = torch.zeros_like(batch.x)
    model.loss(Batch(x, batch.y, mask)).objective.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@contract
def test_state_round_trip(name: str, input_kind: str, output_kind: str) -> None:
    first, second = build(name, input_kind, output_kind, seed=0), build(name, input_kind, output_kind, seed=1)
    batch = sample(input_kind, output_kind)
    assert not torch.equal(first(batch), second(batch))
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(batch), first(batch), rtol=0, atol=0)


@contract
def test_deterministic_under_a_seed(name: str, input_kind: str, output_kind: str) -> None:
    batch = sample(input_kind, output_kind)
    runs = []
    for _ in range(2):
        model = build(name, input_kind, output_kind, seed=3).train()
        torch.manual_seed(4)
        model.loss(batch).objective.backward()
        runs.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


@contract
def test_padding_is_invisible(name: str, input_kind: str, output_kind: str) -> None:
    model = unsettle(build(name, input_kind, output_kind))
    short = sample(input_kind, output_kind, steps=LENGTH - 4, padded=False)
    mask = torch.arange(LENGTH) < LENGTH - 4
    tail = noise(short.x[:, :4])
    y = short.y
    if output_kind == "token":
        y = torch.cat([y, torch.full_like(y[:, :4], 1)], dim=1)
    padded = Batch(torch.cat([short.x, tail], dim=1), y, mask.expand(4, -1))
    logits = model(padded)
    if output_kind == "token":
        assert not logits[:, LENGTH - 4 :].any()
        logits = logits[:, : LENGTH - 4]
    torch.testing.assert_close(logits, model(short), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.loss(padded).reported, model.loss(short).reported, rtol=1e-5, atol=1e-5)
    assert model.loss(padded).count == model.loss(short).count


@contract
def test_stages_leave_zeros_at_masked_positions(name: str, input_kind: str, output_kind: str) -> None:
    model, batch = unsettle(build(name, input_kind, output_kind)).train(), sample(input_kind, output_kind)
    context = model.context(batch)
    x = batch.x
    for stage in model.stages[:-1]:
        x = stage(x, context)
        if x.dim() > 2:  # a state without a token axis (mlp) has no masked positions
            assert not x[~batch.mask].any()


@contract
def test_what_lies_under_the_padding_does_not_matter(name: str, input_kind: str, output_kind: str) -> None:
    model, batch = unsettle(build(name, input_kind, output_kind)), sample(input_kind, output_kind)
    hidden = ~batch.mask if input_kind == "tokens" else ~batch.mask[..., None]
    other = replace(batch, x=torch.where(hidden, noise(batch.x), batch.x))
    torch.testing.assert_close(model(other), model(batch), rtol=0, atol=1e-6)


@contract
def test_neighbours_in_a_batch_do_not_meet(name: str, input_kind: str, output_kind: str) -> None:
    model, batch = build(name, input_kind, output_kind), sample(input_kind, output_kind)
    for row in range(len(batch)):
        alone = Batch(batch.x[row : row + 1], batch.y[row : row + 1], batch.mask[row : row + 1])
        torch.testing.assert_close(model(alone)[0], model(batch)[row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@causal
def test_the_future_never_reaches_the_past(name: str, input_kind: str, output_kind: str, padded: bool) -> None:
    model, batch = build(name, input_kind, output_kind), sample(input_kind, output_kind, padded=padded)
    assert model.is_causal
    logits, other = model(batch), noise(batch.x)
    for start in range(1, LENGTH):
        changed = torch.cat([batch.x[:, :start], other[:, start:]], dim=1)
        perturbed = model(replace(batch, x=changed))
        torch.testing.assert_close(perturbed[:, :start], logits[:, :start], rtol=0, atol=1e-6)
        assert (perturbed[0, start] - logits[0, start]).abs().max() > 1e-6  # the perturbation is felt where it is


def assert_chunks_go_on_or_are_refused(model: Model, batch: Batch, split: int) -> None:
    whole = model(batch)
    first, second = (Batch(x, torch.zeros_like(x)) for x in (batch.x[:, :split], batch.x[:, split:]))
    before, after = model.context(first), model.context(second)
    start = model(first, before)
    torch.testing.assert_close(start, whole[:, :split], rtol=1e-5, atol=1e-5)
    after.state = before.next_state
    if None in before.next_state.values():  # what an attention without a state leaves
        with pytest.raises(UsageError, match=r"^[^\n]+cannot go on from an earlier chunk[^\n]+Try: [^\n]+$"):
            model(second, after)
    else:
        torch.testing.assert_close(model(second, after), whole[:, split:], rtol=1e-5, atol=1e-5)


@causal
def test_a_second_chunk_goes_on_exactly_or_is_refused(name: str, input_kind: str, output_kind: str) -> None:
    model = unsettle(build(name, input_kind, output_kind))
    assert_chunks_go_on_or_are_refused(model, sample(input_kind, output_kind, padded=False), 7)


@pytest.mark.parametrize("attention", [None, *ATTENTIONS.names()])
def test_neuronsv2_streams_with_any_attention_or_refuses(attention: str | None) -> None:
    if attention is not None and not getattr(ATTENTIONS.get(attention), "can_be_causal", True):
        pytest.skip("has no causal form")
    model = unsettle(build("neuronsv2", "tokens", "token", attention=attention, width=16))
    assert_chunks_go_on_or_are_refused(model, sample("tokens", "token", padded=False), 7)


@contract
def test_order_matters_to_all_but_the_order_blind(name: str, input_kind: str, output_kind: str) -> None:
    model = build(name, input_kind, output_kind)
    batch = sample(input_kind, output_kind, padded=False)
    order = torch.cat([torch.arange(LENGTH - 1).flip(0), torch.tensor([LENGTH - 1])])
    logits, shuffled = model(batch), model(replace(batch, x=batch.x[:, order]))
    if output_kind == "token":
        logits, shuffled = logits[:, -1], shuffled[:, -1]
    moved = (logits - shuffled).abs().max().item()
    assert moved < 1e-6 if name in ORDER_BLIND else moved > 1e-5  # rounding is 1e-7


@contract
def test_options_are_stored_unchanged(name: str, input_kind: str, output_kind: str) -> None:
    model, entry = build(name, input_kind, output_kind), MODELS.entry(name)
    assert {key: getattr(model, key) for key in entry.defaults()} == entry.defaults()
    assert model.input == INPUTS[input_kind]
    assert model.output == OUTPUTS[output_kind]
    assert type(model).width_option in entry.defaults()


@contract
def test_width_option_sets_the_size(name: str, input_kind: str, output_kind: str) -> None:
    model = build(name, input_kind, output_kind)
    option = model.width_option
    wider = build(name, input_kind, output_kind, **{option: 2 * getattr(model, option)})
    assert wider.parameter_counts()["non_embedding"] > model.parameter_counts()["non_embedding"]


@contract
def test_parameter_counts_add_up(name: str, input_kind: str, output_kind: str) -> None:
    model = build(name, input_kind, output_kind)
    counts = model.parameter_counts()
    tables = {id(m.weight): m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    assert counts["total"] == sum(p.numel() for p in model.parameters())
    assert counts["trainable"] == counts["total"] - sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert counts["non_embedding"] == counts["total"] - sum(table.numel() for table in tables.values())
    mixers = [module for module in model.modules() if isinstance(module, Attention)]
    assert counts["attention"] == sum(p.numel() for mixer in mixers for p in mixer.parameters())


def test_attention_parameters_are_counted_honestly() -> None:
    """Softmax attention: four width x width maps and their biases per layer; attention by phases: none."""
    transformer = build("transformer", "tokens", "label", width=32, layers=3)
    assert transformer.parameter_counts()["attention"] == 3 * (4 * 32 * 32 + 4 * 32)
    if "neuronsv2" in MODELS.names():
        assert build("neuronsv2", "tokens", "label").parameter_counts()["attention"] == 0


@contract
def test_half_precision_autocast_is_finite(name: str, input_kind: str, output_kind: str) -> None:
    model, batch = build(name, input_kind, output_kind), sample(input_kind, output_kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.loss(batch)
    loss.objective.backward()
    assert loss.objective.dtype == torch.float32
    reference = model.loss(batch)
    assert abs(float(loss.reported - reference.reported)) < 0.05 * float(reference.reported)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("name", "option"), [("neuronsv2", "somas"), ("spiking_neuronsv2", "somas"), ("resonance_net", "hidden")]
)
@pytest.mark.parametrize("count", [0, -1])
def test_a_layer_of_nothing_is_refused_not_taken_for_the_default(name: str, option: str, count: int) -> None:
    with pytest.raises(
        UsageError, match=rf"^{name} needs at least one [a-z ]+, not {count}\. Try: {option}=none, [a-z ]+$"
    ):
        build(name, "tokens", "label", **{option: count})
