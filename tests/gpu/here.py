"""Skips the file that imports it where there is no GPU."""

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("there is no NVIDIA GPU here", allow_module_level=True)
