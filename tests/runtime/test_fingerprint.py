import math

import pytest
import torch

from arcvq.runtime.fingerprint import fingerprint


def test_the_fingerprint_changes_with_any_value_or_shape():
    codebook = torch.randn(4, 3)
    other = codebook.clone()
    other[3, 2] = math.nextafter(float(other[3, 2]), 9) + 1e-6
    assert fingerprint(codebook) == fingerprint(codebook.clone())
    assert fingerprint(codebook) != fingerprint(other)
    assert fingerprint(codebook) != fingerprint(codebook.view(3, 4))


def test_the_fingerprint_does_not_depend_on_strides_or_gradients():
    codebook = torch.randn(4, 3, requires_grad=True)
    assert fingerprint(codebook.T) == fingerprint(codebook.T.contiguous())


def test_the_fingerprint_of_known_tensors_stays_what_it_was():
    found = fingerprint(torch.arange(6).view(2, 3), torch.tensor([1.5, -2.0]))
    assert found == "7df17eee2acc4891"


DTYPES = [torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.uint8, torch.uint16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_any_dtype_have_fingerprints(dtype):
    tensor = torch.arange(6).view(2, 3).to(dtype)
    assert fingerprint(tensor) == fingerprint(tensor.clone())
    assert fingerprint(tensor) != fingerprint(tensor[:, [1, 0, 2]])
    assert fingerprint(tensor[0, 0]) != fingerprint(tensor[0, 1]), "numbers alone"
    assert fingerprint(tensor[:0]) != fingerprint(tensor[:, :0]), "empty ones differ in their shape"
