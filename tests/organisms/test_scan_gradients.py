"""The kernels' backward passes, which training registers, against PyTorch's gradients of the same scans."""

import pytest
import torch
from support import recurrences

# Triton launches on the current GPU: on the second one of a spread model its kernels read what was not there yet.
GPUS = [f"cuda:{n}" for n in range(torch.cuda.device_count())[:2]]


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def scanned(scan, inputs, device):
    tensors = [x.to(device).requires_grad_() for x in inputs]
    values, last = scan(*tensors)
    ((values * values).sum() + last.sum()).backward()
    return [values.detach().cpu(), last.detach().cpu()], [x.grad.cpu() for x in tensors]


def selective(x, dt, rates, b, c, state):
    return recurrences.selective_scan(
        x, dt, rates, b, c, delta_softplus=True, return_last_state=True, initial_state=state
    )


@pytest.mark.skipif(not GPUS, reason="needs a GPU")
@pytest.mark.parametrize("device", GPUS or ["none"])
@pytest.mark.parametrize("time", [1, 2, 3, 31, 257])
@pytest.mark.parametrize("scan", [recurrences.linear_scan, selective])
def test_gradients_of_the_kernels_are_pytorchs(scan, time, device):
    from hybret.organisms.training import scan_gradients  # noqa: F401

    assert recurrences.triton.DIFFERENTIABLE
    if scan is selective:
        inputs = [draw(2, 20, time), draw(2, 20, time), -draw(20, 8).exp(), draw(2, 8, time), draw(2, 8, time)]
        inputs.append(draw(2, 20, 8))
    else:
        inputs = [draw(3, time, 40).sigmoid(), draw(3, time, 40), draw(3, 40)]
        inputs[0][0, time // 2] = 0  # a reset in the middle
    (values, slopes), (exact, exact_slopes) = scanned(scan, inputs, device), scanned(scan, inputs, "cpu")
    torch.testing.assert_close(values, exact, atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(slopes, exact_slopes, strict=True):
        # The backward pass of the selective scan keeps its states in bfloat16.
        assert (ours - theirs).norm() <= (1e-2 if scan is selective else 1e-5) * theirs.norm()
