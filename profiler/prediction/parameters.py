"""What is fitted of an efficiency model, for GPUs and for CPUs: which numbers, where they start, and the model that they make.

Few numbers, each with a meaning, so that a model fitted on some devices holds for another.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from profiler.prediction.calibrate import Parameter
from profiler.prediction.time import MULTIPLIES
from profiler.prediction_record import (
    ATTENTION,
    CLASSES,
    CONVOLUTION,
    CONVOLUTION_BACKWARD,
    COPY,
    ELEMENTWISE,
    GATHER,
    KERNEL,
    KERNEL_FUNCTIONS,
    MATMUL,
    RANDOM,
    ROWS,
    SOFTMAX,
    TRANSCENDENTAL,
    ClassEfficiency,
    EfficiencyModel,
)

# Every generation that was measured has its own share, drawn towards what all have in common; a generation that was not measured is given the common one.
GENERATIONS = ("pascal", "volta", "ampere")
APART = 0.2  # of a logarithm: how far generations are believed to lie apart
GPU = {
    "matmul": Parameter(0.95, 0.1),
    "depth": Parameter(40, 0.7),
    "elementwise": Parameter(0.85, 0.1),
    "rows": Parameter(0.8, 0.2),
    "picojoule": Parameter(15, 0.3),
    "picojoule_pascal": Parameter(25, 0.5),
    **dict.fromkeys(GENERATIONS, Parameter(1.0, APART)),
}
# Assumed, not fitted. Four schedulers of 32 lanes each (Ada, Hopper) issue one multiply-add every cycle, so that every load and address takes the slot of one; a register tile of
# 8 × 8 needs about one such instruction for four multiply-adds. Chips with 16 lanes to a scheduler have every second slot free.
WIDE_ISSUE = 0.78
FOUR_NM, SEVEN_NM, TWELVE_NM = 4, 7, 12  # nominal process lengths; energy per operation is taken as proportional
KERNEL_S = 3e-6  # of a GPU's kernel from start to end with nothing to do
CALL_S = 5e-6  # of a host for one operator of eager PyTorch
GPU_ORIGIN = (
    "Least squares on the logarithm of published whole-model latencies (NeuSight, MIT licence): float32, eager PyTorch, V100, A100, P100, T4, P4. "
    "Assumed, not fitted: small tiles, cache, kernel and call times; for Ada and Hopper the share of multiply-adds among issued instructions, and energy per operation in proportion to the "
    "nominal process length. Rates of tensor cores were not measured: the share of float32 is taken."
)


def gpu_model(values: Mapping[str, float]) -> EfficiencyModel:
    """Values of the parameters GPU -> the model of eager PyTorch on GPUs."""
    x = {name: parameter.start for name, parameter in GPU.items()} | dict(values)
    moves = ClassEfficiency(1.0, x["elementwise"], KERNEL_S)
    rows = ClassEfficiency(1.0, x["rows"], KERNEL_S)
    multiplies = ClassEfficiency(x["matmul"], 0.8, KERNEL_S)
    copies = ClassEfficiency(1.0, 0.75, KERNEL_S)
    turing = x["picojoule"]
    return EfficiencyModel(
        name="eager PyTorch on a GPU",
        classes={
            MATMUL: multiplies, CONVOLUTION: multiplies, CONVOLUTION_BACKWARD: multiplies, ATTENTION: multiplies, ELEMENTWISE: moves, TRANSCENDENTAL: moves, RANDOM: moves, ROWS: rows, SOFTMAX: rows,
            COPY: copies, GATHER: copies, KERNEL: moves, KERNEL_FUNCTIONS: moves,
        },
        depth=x["depth"],
        tile=128,
        small_tile=0.8,
        cache_share=0.5,
        cache_bandwidth=1.0,
        cache_bytes_per_cycle=32.0,
        call_s=CALL_S,
        asynchronous=True,
        picojoule={
            "pascal": x["picojoule_pascal"], "volta": turing, "turing": turing, "ampere": turing * SEVEN_NM / TWELVE_NM,
            "ada": turing * FOUR_NM / TWELVE_NM, "hopper": turing * FOUR_NM / TWELVE_NM,
        },
        architecture={"pascal": x["pascal"], "volta": x["volta"], "turing": x["volta"], "ampere": x["ampere"], "ada": WIDE_ISSUE, "hopper": WIDE_ISSUE},
        spill=1.0,
        operators={},
        fitted=tuple(GPU),
        origin=GPU_ORIGIN,
    )  # fmt: skip


def against_ceilings(model: EfficiencyModel) -> EfficiencyModel:
    """A model that was fitted against data sheets, for a device whose ceilings were measured.

    A large matmul and a copy reach these wholly, so of every share is left how far it is from those two; power and generation are in what was measured.
    """
    whole, copy = model.classes[MATMUL].compute, model.classes[COPY].bandwidth
    classes = {
        kind: ClassEfficiency(
            min(1.0, one.compute / whole) if kind in MULTIPLIES else one.compute, min(1.0, one.bandwidth / copy), one.fixed_s
        )
        for kind, one in model.classes.items()
    }
    return msgspec.structs.replace(model, classes=classes, architecture=dict.fromkeys(model.architecture, 1.0), picojoule={})


GPU_HERE = {
    **{f"{kind}_compute": Parameter(share, 0.3) for kind, share in ((MATMUL, 0.95), (CONVOLUTION, 0.8), (CONVOLUTION_BACKWARD, 0.7), (ATTENTION, 0.5))},
    **{f"{kind}_bandwidth": Parameter(share, 0.3) for kind, share in ((MATMUL, 0.9), (ELEMENTWISE, 0.95), (ROWS, 0.85), (SOFTMAX, 0.85), (COPY, 0.9),
                                                                      (GATHER, 0.5), (RANDOM, 0.7), (KERNEL, 0.9))},
    "depth": Parameter(40, 0.7),
    "kernel_us": Parameter(3, 0.3),
    "call_us": Parameter(5, 0.5),
}  # fmt: skip
GPU_HERE_ORIGIN = "Least squares on the logarithm of measured times of nodes and whole graphs on one GPU, against the ceilings measured in the same session."


def gpu_here_model(values: Mapping[str, float]) -> EfficiencyModel:
    """Values of the parameters GPU_HERE -> the model of one GPU whose ceilings were measured."""
    x = {name: parameter.start for name, parameter in GPU_HERE.items()} | dict(values)
    like = {TRANSCENDENTAL: ELEMENTWISE, KERNEL_FUNCTIONS: KERNEL} | dict.fromkeys((CONVOLUTION, CONVOLUTION_BACKWARD, ATTENTION), MATMUL)
    classes = {
        kind: ClassEfficiency(x.get(f"{kind}_compute", 1.0), x[f"{like.get(kind, kind)}_bandwidth"], x["kernel_us"] * 1e-6)
        for kind in CLASSES
    }
    start = gpu_model({})
    return msgspec.structs.replace(
        start, name="this GPU", classes=classes, depth=x["depth"], call_s=x["call_us"] * 1e-6, picojoule={},
        architecture=dict.fromkeys(start.architecture, 1.0), fitted=tuple(GPU_HERE), origin=GPU_HERE_ORIGIN,
    )  # fmt: skip


_SHARES = {MATMUL: (0.9, 0.7), CONVOLUTION: (0.6, 0.3), CONVOLUTION_BACKWARD: (0.5, 0.3), ATTENTION: (0.5, 0.7), ELEMENTWISE: (0.2, 0.8), TRANSCENDENTAL: (0.02, 0.8), ROWS: (0.1, 0.6), SOFTMAX: (0.05, 0.6),
           COPY: (1.0, 0.6), GATHER: (0.05, 0.4), RANDOM: (0.005, 0.6), KERNEL: (0.2, 0.8), KERNEL_FUNCTIONS: (0.02, 0.8)}  # fmt: skip
CPU = {
    **{f"{kind}_compute": Parameter(share, 0.5) for kind, (share, _) in _SHARES.items() if kind not in (COPY, GATHER)},
    **{f"{kind}_bandwidth": Parameter(share, 0.3) for kind, (_, share) in _SHARES.items()},
    "depth": Parameter(8, 0.7),
    "fixed_us": Parameter(0.7, 0.3),
    "rows_fixed_us": Parameter(3, 0.5),
    "matmul_fixed_us": Parameter(4, 0.5),
    "fork_us": Parameter(4, 0.7),
    "convolution_fixed_us": Parameter(20, 0.5),
    "convolution_backward_fixed_us": Parameter(40, 0.5),
    "kernel_fixed_us": Parameter(20, 0.7),
    "call_us": Parameter(1.4, 0.1),
    "spill": Parameter(2.0, 0.7),
}
# Whose fixed time each of these is; the classes that are not named have that of elementwise operators.
_CPU_FIXED = {
    "fixed_us": (ELEMENTWISE,),
    "rows_fixed_us": (ROWS, SOFTMAX),
    "matmul_fixed_us": (MATMUL, ATTENTION),
    "convolution_fixed_us": (CONVOLUTION,),
    "convolution_backward_fixed_us": (CONVOLUTION_BACKWARD,),
    "kernel_fixed_us": (KERNEL, KERNEL_FUNCTIONS),
}
# In launches of the smallest operator: where these times start on a CPU whose launches were measured.
_IN_LAUNCHES = {"call_us": 1.0, "fixed_us": 0.5, "rows_fixed_us": 2.0, "matmul_fixed_us": 3.0, "fork_us": 3.0}
CPU_ORIGIN = (
    "Least squares on the logarithm of measured times of nodes and whole graphs, against the ceilings measured in the same session."
)


def cpu_model(values: Mapping[str, float]) -> EfficiencyModel:
    """Values of the parameters CPU -> the model of eager PyTorch on a CPU, where host and device are one."""
    x = {name: parameter.start for name, parameter in CPU.items()} | dict(values)
    fixed = dict.fromkeys(_SHARES, x["fixed_us"] * 1e-6)
    fixed |= {kind: x[name] * 1e-6 for name, kinds in _CPU_FIXED.items() for kind in kinds}
    classes = {kind: ClassEfficiency(x.get(f"{kind}_compute", 1.0), x[f"{kind}_bandwidth"], fixed[kind]) for kind in _SHARES}
    return EfficiencyModel(
        name="eager PyTorch on a CPU",
        classes=classes,
        depth=x["depth"],
        tile=16,
        small_tile=0.9,
        cache_share=0.5,
        cache_bandwidth=0.6,
        cache_bytes_per_cycle=16.0,
        call_s=x["call_us"] * 1e-6,
        asynchronous=False,
        picojoule={},
        architecture={},
        spill=x["spill"],
        operators={},
        fitted=tuple(CPU),
        origin=CPU_ORIGIN,
        serial=(CONVOLUTION, CONVOLUTION_BACKWARD),
        fork_s=x["fork_us"] * 1e-6,
    )


def cpu_starts(model: EfficiencyModel, launch_s: float) -> dict[str, Parameter]:
    """The parameters CPU, each starting where a model of another CPU has it, or where launches of this one say: what measurements here do not tell stays there.

    Args:
        launch_s: seconds, measured here.
    """
    values = {f"{kind}_compute": one.compute for kind, one in model.classes.items()}
    values |= {f"{kind}_bandwidth": one.bandwidth for kind, one in model.classes.items()}
    values |= {name: model.classes[kinds[0]].fixed_s * 1e6 for name, kinds in _CPU_FIXED.items()}
    values |= {"depth": model.depth, "spill": model.spill}
    values |= {name: launches * launch_s * 1e6 for name, launches in _IN_LAUNCHES.items()}
    return {name: Parameter(values[name], one.spread) for name, one in CPU.items()}


def at_pace(model: EfficiencyModel, launch_s: float) -> EfficiencyModel:
    """A model of another CPU for one whose launches take so long: a processor that is slower in these is so in every call of an operator."""
    if not (model.launch_s and launch_s):
        return model
    slower = launch_s / model.launch_s
    return msgspec.structs.replace(
        model,
        classes={kind: msgspec.structs.replace(one, fixed_s=one.fixed_s * slower) for kind, one in model.classes.items()},
        call_s=model.call_s * slower,
        fork_s=model.fork_s * slower,
        launch_s=launch_s,
    )
