"""The loss and the lookup under torch.compile, torch.export, torch.func and higher derivatives."""

import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from arcvq.ops import margin_loss, nearest_code
from tests.oracles import whole_matrix_loss

SETTINGS = (0.3, 7.0, 2)


@pytest.fixture(autouse=True)
def compiled_anew(unchecked):
    """The check of shapes is off: torch.compile cannot look into it."""
    torch.compiler.reset()


@pytest.fixture(params=["eager", "aot_eager"])
def backend(request):
    return request.param


class Lookup(nn.Module):
    """Codes of the nearest directions, and in training the margin loss."""

    def __init__(self, num_codes=9, dim=6, metric="cosine"):
        super().__init__()
        self.first = nn.Linear(dim, dim)
        self.codebook = nn.Parameter(torch.randn(num_codes, dim))
        self.metric = metric

    def forward(self, inputs):
        latents = self.first(inputs)
        indices = nearest_code(latents, self.codebook, self.metric)
        codes = latents + (self.codebook[indices] - latents).detach()
        loss = codes.square().mean()
        if self.training:
            loss = loss + margin_loss(latents, self.codebook.detach(), *SETTINGS)
        return codes, indices, loss


def gradients(module, loss):
    return torch.autograd.grad(loss, [*module.first.parameters()])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_module_compiles_as_a_whole_and_trains_as_it_does_without(metric, backend):
    module = Lookup(metric=metric)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=backend)
    for count in (20, 33, 1, 50):
        inputs = torch.randn(count, 6)
        expected = module(inputs)
        found = compiled(inputs)
        assert torch.equal(found[1], expected[1])
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradients(module, found[2]), gradients(module, expected[2]))
    module.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(inputs), module(inputs))


@pytest.mark.parametrize("dynamic", [True, None])
def test_another_number_of_latents_compiles_nothing_anew(dynamic, backend):
    module = Lookup()
    compiled = torch.compile(module, fullgraph=True, dynamic=dynamic, backend=backend)
    for count in (20, 33):  # unless it is told, torch.compile sees at the second that it changes
        compiled(torch.randn(count, 6))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for count in (50, 2, 1000):
            compiled(torch.randn(count, 6))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_compiled_under_autocast_the_loss_and_the_indices_stay_those_of_float32(dtype, backend):
    latents = torch.randn(40, 6, requires_grad=True)
    codebook = torch.randn(9, 6)

    def work(latents):
        with torch.autocast("cpu", dtype):
            return margin_loss(latents, codebook, *SETTINGS), nearest_code(latents, codebook)

    loss, indices = torch.compile(work, fullgraph=True, backend=backend)(latents)
    assert loss == margin_loss(latents, codebook, *SETTINGS)
    assert torch.equal(indices, nearest_code(latents, codebook))


def test_second_derivatives_of_what_is_compiled_are_there_or_refused(backend):
    latents = torch.randn(20, 6, requires_grad=True)
    codebook = torch.randn(9, 6)

    def loss(latents):
        return margin_loss(latents, codebook, *SETTINGS)

    def slope_of_penalty(loss):
        latents.grad = None
        gradient_penalty(loss(latents), latents).backward()
        return latents.grad

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    if backend == "eager":
        torch.testing.assert_close(slope_of_penalty(compiled), slope_of_penalty(loss))
    else:  # PyTorch's own limit
        with pytest.raises(RuntimeError, match="does not currently support double backward"):
            slope_of_penalty(compiled)


def test_inductor_makes_a_training_step_of_it():
    module = Lookup()
    compiled = torch.compile(module, fullgraph=True)
    inputs = torch.randn(20, 6)
    loss = compiled(inputs)[2]
    torch.testing.assert_close(loss, module(inputs)[2])
    torch.testing.assert_close(gradients(module, loss), gradients(module, module(inputs)[2]))


@pytest.mark.parametrize("name", ["margin_loss", "nearest_code"])
def test_the_operators_keep_what_they_promise_to_the_compiler(name):
    latents = torch.randn(20, 6, requires_grad=True)
    codebook = torch.randn(9, 6)
    if name == "margin_loss":
        operator = torch.ops.arcvq.margin_loss.default
        for rows, with_gradient in [(latents, True), (latents.detach(), False)]:
            torch.library.opcheck(operator, (rows, codebook, *SETTINGS, with_gradient))
    else:
        operator = torch.ops.arcvq.nearest_code.default
        for metric in ("cosine", "euclidean"):
            torch.library.opcheck(operator, (latents.detach(), codebook, metric))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("strict", [False, True])
def test_the_lookup_is_exported_as_plain_operations_for_any_number_of_latents(metric, strict):
    module = Lookup(metric=metric).eval()
    count = torch.export.Dim("count", min=1, max=1_000_000)
    program = torch.export.export(
        module, (torch.randn(20, 6),), dynamic_shapes=({0: count},), strict=strict
    )
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(name.startswith("aten.") for name in called), called
    for size in (1, 20, 700):
        inputs = torch.randn(size, 6)
        found = program.module()(inputs)
        assert torch.equal(found[1], module(inputs)[1])
        torch.testing.assert_close(found, module(inputs))


def test_onnx_gives_the_same_indices(tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    for metric in ("cosine", "euclidean"):
        module = Lookup(metric=metric).eval()
        path = tmp_path / f"{metric}.onnx"
        count = torch.export.Dim("count", min=1, max=1_000_000)
        torch.onnx.export(
            module, (torch.randn(20, 6),), path, dynamic_shapes=({0: count},), dynamo=True
        )
        session = onnxruntime.InferenceSession(path)
        for size in (1, 20, 700):
            inputs = torch.randn(size, 6)
            name = session.get_inputs()[0].name
            codes, indices, _ = session.run(None, {name: inputs.numpy()})
            expected = module(inputs)
            assert indices.tolist() == expected[1].tolist()
            torch.testing.assert_close(torch.from_numpy(codes), expected[0])


# torch.func


def test_the_gradient_of_torch_func_is_that_of_autograd():
    latents = torch.randn(30, 4, requires_grad=True)
    codebook = torch.randn(6, 4)
    (expected,) = torch.autograd.grad(margin_loss(latents, codebook, *SETTINGS), latents)

    def loss(latents):
        return margin_loss(latents, codebook, *SETTINGS)

    found, value = torch.func.grad_and_value(loss)(latents.detach())
    torch.testing.assert_close(found, expected)
    assert value == loss(latents)


def test_torch_func_differentiates_a_whole_module():
    module = Lookup()
    inputs = torch.randn(20, 6)
    weights = dict(module.first.named_parameters(prefix="first"))

    def loss(weights):
        return torch.func.functional_call(module, weights, (inputs,))[2]

    found = torch.func.grad(loss)(weights)
    module(inputs)[2].backward()
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight.grad)


# Higher derivatives


CASES = [
    (0.0, 1.0, 1),
    (0.3, 7.0, 2),
    (1.2, 5.0, 3),
    (0.1, 60.0, 2),
]


def double(count, dim):
    return torch.randn(count, dim, dtype=torch.float64)


@pytest.mark.parametrize("settings", CASES)
def test_first_and_second_derivatives_are_those_of_finite_differences(settings):
    latents = double(14, 3).requires_grad_()
    codebook = double(5, 3)

    def loss(latents):
        return margin_loss(latents, codebook, *settings)

    assert torch.autograd.gradcheck(loss, latents)
    assert torch.autograd.gradgradcheck(loss, latents)


def gradient_penalty(loss, latents):
    (gradient,) = torch.autograd.grad(loss, latents, create_graph=True)
    return gradient.square().sum()


@pytest.mark.parametrize("settings", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_a_gradient_penalty_equals_the_formula(settings, dtype):
    latents = torch.randn(40, 5, dtype=dtype, requires_grad=True)
    codebook = torch.randn(7, 5, dtype=dtype)
    exact = latents.detach().double().requires_grad_()
    expected = gradient_penalty(whole_matrix_loss(exact, codebook.double(), *settings), exact)
    (slope,) = torch.autograd.grad(expected, exact)

    loss = margin_loss(latents, codebook, *settings)
    found = gradient_penalty(loss, latents)
    (loss + found).backward()  # both orders through one graph
    first = torch.autograd.grad(margin_loss(latents, codebook, *settings), latents)[0]
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    assert found.item() == pytest.approx(expected.item(), rel=tolerance)
    assert (latents.grad - first - slope).norm() <= tolerance * slope.norm()


def test_second_derivatives_count_the_angles_past_pi():
    """All latents lie opposite to the code, so that the margin leads beyond pi."""
    latents = (double(6, 3) * 0.2 - torch.eye(3)[0]).requires_grad_()
    codebook = torch.eye(3, dtype=torch.float64)[:1]

    def loss(latents):
        return margin_loss(latents, codebook, 1.0, 5.0, 2)

    cosines = torch.cosine_similarity(latents, codebook)
    assert (cosines < -math.cos(1.0)).all()
    assert torch.autograd.gradgradcheck(loss, latents)


def test_third_derivatives_are_there_too():
    latents = double(8, 2)
    codebook = double(3, 2)
    direction = double(8, 2)

    def along(function):
        def derivative(latents):
            return (torch.func.grad(function)(latents) * direction).sum()

        return derivative

    def loss(latents):
        return margin_loss(latents, codebook, *SETTINGS)

    def formula(latents):
        return whole_matrix_loss(latents, codebook, *SETTINGS)

    found = along(along(along(loss)))(latents)
    assert found.item() == pytest.approx(along(along(along(formula)))(latents).item(), rel=1e-8)


def test_second_derivatives_are_finite_for_rows_without_direction_and_equal_rows():
    latents = torch.randn(20, 4)
    codebook = torch.randn(5, 4)
    latents[3] = 0
    latents[4] = codebook[0]
    codebook[2] = 0
    for count in (20, 2):  # with 2, all latents are among the nearest
        rows = latents[-count:].clone().requires_grad_()
        penalty = gradient_penalty(margin_loss(rows, codebook, 0.1, 5.0, 3), rows)
        (found,) = torch.autograd.grad(penalty, rows)
        assert found.isfinite().all()


@pytest.mark.parametrize(("count", "num_codes"), [(0, 3), (3, 0), (0, 0)])
def test_without_rows_all_derivatives_are_zero(count, num_codes):
    latents = torch.randn(count, 4, requires_grad=True)
    loss = margin_loss(latents, torch.randn(num_codes, 4), *SETTINGS)
    (gradient,) = torch.autograd.grad(loss, latents, create_graph=True)
    assert loss == 0
    assert not gradient.any()
    assert gradient.shape == latents.shape


# Activation checkpointing


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpoint_gives_the_same_gradients(use_reentrant):
    module = Lookup()
    inputs = torch.randn(20, 6, requires_grad=True)
    expected = gradients(module, module(inputs)[2])
    loss = checkpoint(module, inputs, use_reentrant=use_reentrant)[2]
    loss.backward()
    for weight, slope in zip(module.first.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, slope)
