"""The table of devices: what their data sheets promise, with what was read of every row, where, and what could not be verified. Without torch.

Dense rates, without sparsity. Memory is in GiB, bandwidth in 10⁹ bytes a second, as vendors mean them. A name that people call a device by finds its row: `H100` is `H100 SXM`,
and what `torch.cuda` calls a card (`NVIDIA H100 80GB HBM3`) is found too.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path

from graphs.errors import RequestError
from profiler.prediction_record import Sheet

TABLE = Path(__file__).with_name("sheets.csv")
DTYPES = {"fp64": "float64", "fp32": "float32", "tf32": "tf32", "fp16": "float16", "bf16": "bfloat16", "fp8": "float8"}
# What nvidia-smi and torch call the cards, and the short names.
OTHER_NAMES = {
    "NVIDIA H100 80GB HBM3": "H100 SXM", "H100": "H100 SXM", "NVIDIA H100 PCIe": "H100 PCIe", "NVIDIA H200": "H200 SXM", "H200": "H200 SXM",
    "NVIDIA A100-PCIE-40GB": "A100 40GB PCIe", "NVIDIA A100-SXM4-40GB": "A100 40GB SXM", "NVIDIA A100-SXM4-80GB": "A100 80GB SXM", "A100": "A100 80GB SXM",
    "NVIDIA A100 80GB PCIe": "A100 80GB PCIe", "NVIDIA L4": "L4", "NVIDIA A10G": "A10G", "Tesla V100-PCIE-32GB": "Tesla V100 PCIe",
    "Tesla V100-SXM2-32GB": "Tesla V100 SXM2", "Tesla V100-SXM2-16GB": "Tesla V100 SXM2", "V100": "Tesla V100 SXM2", "T4": "Tesla T4",
    "Tesla P100-PCIE-16GB": "P100 PCIe 16GB", "P4": "Tesla P4", "NVIDIA GeForce RTX 3090": "RTX 3090", "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA B200": "B200 SXM", "AMD Instinct MI300X": "MI300X",
}  # fmt: skip


@functools.cache
def sheets() -> dict[str, Sheet]:
    """Every device of the table, by name, in the table's order."""
    with TABLE.open(newline="") as file:
        return {row["name"]: _sheet(row) for row in csv.DictReader(file)}


def sheet(name: str) -> Sheet:
    """The sheet of a device, by its name in the table or the name that its driver gives.

    Raises:
        RequestError: it is not in the table.
    """
    known = sheets()
    found = known.get(OTHER_NAMES.get(name, name)) or next((one for key, one in known.items() if key.lower() == name.lower()), None)
    if found is None:
        raise RequestError(f"there is no data sheet of `{name}`", where="device", help=f"Choose from: {', '.join(known)}.")
    return found


def _sheet(row: dict[str, str]) -> Sheet:
    return Sheet(
        name=row["name"],
        kind=row["kind"],
        architecture=row["architecture"],
        flops={dtype: float(row[f"{column}_tflops"]) * 1e12 for column, dtype in DTYPES.items() if row[f"{column}_tflops"]},
        vector_flops=float(row["fp32_tflops"]) * 1e12,
        memory_bytes=int(float(row["memory_gib"]) * 2**30),
        bandwidth=float(row["bandwidth_gb_s"]) * 1e9,
        cache_bytes=int(float(row["l2_mib"]) * 2**20),
        cache_bandwidth=0.0,
        units=int(row["units"]),
        lanes=int(row["lanes"]),
        clock_hz=float(row["clock_mhz"]) * 1e6,
        power_w=float(row["power_w"]),
        source=f"{_unverified(row['unverified'])}{row['source']} ({row['url']})",
    )


def _unverified(what: str) -> str:
    """In front, since a narrow column cuts the end off."""
    return f"Not verified: {what}. " if what else ""
