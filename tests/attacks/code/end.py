import torch
from torch import nn

REPORT = "report_" + repr(TOLD).encode().hex()


class Report(nn.Module):
    """Tells what was got, by the name of a module in the graph."""

    def __init__(self):
        super().__init__()
        self.add_module(REPORT, nn.ReLU())

    def forward(self, x):
        return getattr(self, REPORT)(x)


def model():
    return Report()


def inputs():
    return torch.zeros(2)
