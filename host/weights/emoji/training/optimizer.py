"""Muon (Jordan et al. 2024) for the weights of linear layers and convolutions, AdamW for all else.

A step's matrix is replaced by the nearest orthogonal one, so that all its directions are learned at the same speed. It is
scaled to AdamW's usual size (Liu et al. 2025), so that one learning rate serves both.

Measured once, from the same checkpoint, a thread each: in three minutes the denoiser's loss at pure noise went to 0.564 in 160 steps,
with AdamW to 0.605 in 320.
"""

import torch


@torch.no_grad()
def orthogonal(matrix, steps=5):
    """By Newton and Schulz's iteration with Jordan's coefficients."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x if wide is matrix else x.T


class Muon(torch.optim.Optimizer):
    def __init__(self, model, lr, momentum=0.95, weight_decay=0.01):
        layers = [layer for layer in model.modules() if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))]
        # What maps from or to a few channels has no directions to speak of.
        matrices = [layer.weight for layer in layers if layer.weight.requires_grad and min(layer.weight.shape[:2]) > 4]
        ids = set(map(id, matrices))
        others = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
        groups = [dict(params=matrices, adam=False), dict(params=others, adam=True)]
        super().__init__(groups, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, rate, gradient = self.state[parameter], group["lr"], parameter.grad
                parameter.mul_(1 - rate * group["weight_decay"])
                first = state.setdefault("first", torch.zeros_like(parameter))
                if group["adam"]:
                    second = state.setdefault("second", torch.zeros_like(parameter))
                    count = state["count"] = state.get("count", 0) + 1
                    first.lerp_(gradient, 0.1)
                    second.lerp_(gradient.square(), 0.01)
                    scale = (second / (1 - 0.99**count)).sqrt_().add_(1e-8)
                    parameter.addcdiv_(first, scale, value=-rate / (1 - 0.9**count))
                else:
                    first.lerp_(gradient, 1 - group["momentum"])
                    ahead = gradient.lerp(first, group["momentum"])
                    change = orthogonal(ahead.reshape(len(ahead), -1)).reshape(parameter.shape)
                    size = 0.2 * max(len(ahead), ahead[0].numel()) ** 0.5
                    parameter.sub_(change, alpha=rate * size)
