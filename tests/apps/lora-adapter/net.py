"""A frozen base, the same at every client, and a low-rank adapter, which alone travels."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, rank=4):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.base = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
            self.lora_a = nn.Parameter(torch.randn(rank, 64) / 8)
        self.lora_b = nn.Parameter(torch.zeros(10, rank))
        self.base.requires_grad_(False)

    def forward(self, images):
        return self.base(images) + images @ self.lora_a.T @ self.lora_b.T

    def state_dict(self):
        return {name: value for name, value in super().state_dict().items() if "lora" in name}
