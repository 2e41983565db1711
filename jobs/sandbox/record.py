"""What limits a job for an upload, and what holds on this machine. Records."""

from __future__ import annotations

import msgspec

MiB, GiB = 1 << 20, 1 << 30
# Codes with which a supervisor ends; a job's own exit codes are kept below them.
TOO_MUCH_MEMORY, NO_SANDBOX = 240, 241


class Limits(msgspec.Struct, frozen=True, array_like=True):
    """What one job for an upload may take.

    Attributes:
        memory_bytes: of all its processes together (resident), files in its scratch folder included.
        address_bytes: of addresses, each process; 0 for no limit (a GPU's driver reserves more than there is memory).
        scratch_bytes: of all files that it writes; they are kept in memory and end with it.
        file_bytes: of one file.
        processes: processes and threads together.
        open_files: at a time, each process.
        cpu_seconds: of processor time, each process.
        gpu: are the devices of a GPU passed in?
    """

    memory_bytes: int
    address_bytes: int
    scratch_bytes: int = GiB
    file_bytes: int = 512 * MiB
    processes: int = 256
    open_files: int = 512
    cpu_seconds: int = 3600
    gpu: bool = False


class Layer(msgspec.Struct, frozen=True, array_like=True):
    """One thing that holds code back.

    Attributes:
        needed: without it uploads are off.
        detail: what it does, or why it is not there.
    """

    name: str
    active: bool
    needed: bool
    detail: str


class Isolation(msgspec.Struct, frozen=True, array_like=True):
    """What this machine can do to hold back code that readers brought."""

    layers: tuple[Layer, ...]

    @property
    def safe(self) -> bool:
        """Is every layer there that is needed?"""
        return bool(self.layers) and all(layer.active for layer in self.layers if layer.needed)

    @property
    def missing(self) -> str:
        """Why uploads are off, in a sentence; empty where they are on."""
        return "; ".join(f"{layer.name}: {layer.detail}" for layer in self.layers if layer.needed and not layer.active)
