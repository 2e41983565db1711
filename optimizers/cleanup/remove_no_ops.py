"""Remove no-ops: drop operators that give back what they were given.

## Why it is slow
A cast to the dtype that the tensor has, dropout outside of training, `contiguous()` of what lies in order already, `cat` of one tensor,
padding by nothing: each copies a whole tensor to say what was there before. Views that change nothing cost no time, but hide from other
optimizations what they could merge.

## What changes
Readers of such a node read its input. Checks of dtype and device that were traced along with casts are dropped where the captured shapes
answer them.

## When it does not apply
A copy has one use: it is other memory. Who gets a graph's result may write to it; so a result must not come to share memory with an
input, a weight or another result. Left alone too:
- a copy that puts elements in another order: `x.t().contiguous()` moves every element;
- a sum over dimensions of one element that also changes the dtype;
- a sum over a dimension of one element of floats: its sum starts from +0.0, so that -0.0 becomes +0.0;
- dropout that drops.

## Try it
Train `zoo/attention`: views that show all of their tensor go, and three `clone` stay. *Why not here?* says what they are for.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import Tensor, fx

from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.patterns.aliases import same_layout
from optimizers.patterns.rules import Answer, Call, Gone, No, Reading, Same, by_operator, find_by, rewrite_by
from optimizers.record import Claim

aten = torch.ops.aten
VIEWS = (
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.expand.default, aten.permute.default, aten.transpose.int, aten.t.default,
    aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.slice.Tensor, aten.alias.default, aten.detach.default,
)  # fmt: skip
COPIES = (aten.clone.default, aten.lift_fresh_copy.default, aten._to_copy.default)
SUMS = (aten.sum.dim_IntList, aten.mean.dim)
PICKS = (aten.amax.default, aten.amin.default)
ROOM = (aten.constant_pad_nd.default, aten.repeat.default)


def _value(node: object) -> Tensor | None:
    found = node.meta.get("val") if isinstance(node, fx.Node) else None
    return found if isinstance(found, Tensor) else None


def view_of_all(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """A view with the shape and steps of what it views, and therefore all of it."""
    old, new = _value(call.args[0]), _value(node)
    if call.target is aten.slice.Tensor and _leaves_out_the_end(call):
        return No("It leaves out what is counted from the end: the rounds of a loop are not known, and one is only assumed.")
    return Same(call.args[0]) if old is not None and same_layout(old, new) else None


def _leaves_out_the_end(call: Call) -> bool:
    """A slice up to something before the end never shows all, whatever the sizes that were assumed say."""
    end = (*call.args, None, None)[3]
    return isinstance(end, int) and end < 0


def copy_of_same(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """A copy into the same order, dtype and device."""
    old, new = _value(call.args[0]), _value(node)
    if old is None or new is None or old.dtype != new.dtype:
        return None  # a cast is what it is for
    if old.device != new.device:
        return None
    if not same_layout(old, new):
        return No("It puts the elements in another order in memory, which its readers want.")
    return Same(call.args[0])


def dropped_nothing(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """Dropout with a probability of 0, or outside of training."""
    x, probability, training = call.args
    return Same(x) if probability == 0 or training is False else No(f"It drops elements with a probability of {probability}.")


def dropped_part(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """The same where dropout gives its mask too: the first of its two results is its input."""
    inner = reading.inner(call.args[0], aten.native_dropout.default)
    if inner is None or call.args[1] != 0:
        return None
    probability, training = inner.args[1:]
    return Same(inner.args[0]) if probability == 0 or not training else No(f"It drops elements with a probability of {probability}.")


def summed_nothing(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """A sum, mean or maximum over dimensions of one element."""
    old, new = _value(call.args[0]), _value(node)
    dims = (*call.args, None)[1]
    if (
        old is None or new is None or not dims or not old.dim() or any(old.shape[dim] != 1 for dim in dims)
    ):  # without dimensions, it is over all
        return None
    if old.dtype != new.dtype:
        return No("It changes the dtype.")
    if call.target is not aten.amax.default and call.target is not aten.amin.default and old.dtype.is_floating_point:
        return No("A sum starts from +0.0, so that -0.0 becomes +0.0.")
    if old.shape == new.shape:
        return Same(call.args[0])
    return (
        Call(aten.view.default, (call.args[0], list(new.shape)))
        if old.is_contiguous()
        else No("Its input does not lie in order in memory.")
    )


def joined_alone(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`cat` of one tensor."""
    return Same(call.args[0][0]) if len(call.args[0]) == 1 else None


def padded_by_nothing(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """Padding by 0 on every side, and one repetition."""
    same = all(each == (0 if call.target is aten.constant_pad_nd.default else 1) for each in call.args[1])
    old, new = _value(call.args[0]), _value(node)
    return Same(call.args[0]) if same and old is not None and new is not None and old.dim() == new.dim() else None


def written_over(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`slice_scatter` of everything: nothing of the first tensor is left."""
    base, source = _value(call.args[0]), _value(call.args[1])
    step = call.args[5] if len(call.args) == 6 else 1
    return Same(call.args[1]) if base is not None and source is not None and base.shape == source.shape and step == 1 else None


def checked(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """A check of what the captured value says already."""
    value = _value(call.args[0])
    if value is None or node.users:
        return None
    size, stride, dtype = (*call.args[1:], None, None, None)[:3]
    facts = (
        (size, list(value.shape)), (stride, list(value.stride())), (dtype, value.dtype), (call.kwargs.get("dtype"), value.dtype),
        (call.kwargs.get("device"), value.device), (call.kwargs.get("layout"), value.layout),
    )  # fmt: skip
    if any(asked is not None and asked != fact for asked, fact in facts):
        return No("The captured shapes do not say that this check holds.")
    return Gone()


RULES = by_operator({
    "a view of everything": (VIEWS, view_of_all),
    "a copy of what lies so already": (COPIES, copy_of_same),
    "dropout that drops nothing": ((aten.dropout.default,), dropped_nothing),
    "dropout that drops nothing, with its mask": ((operator.getitem,), dropped_part),
    "a reduction of one element": ((*SUMS, *PICKS), summed_nothing),
    "cat of one tensor": ((aten.cat.default,), joined_alone),
    "padding by nothing, one repetition": (ROOM, padded_by_nothing),
    "everything is written over": ((aten.slice_scatter.default,), written_over),
    "a check that shapes answer": ((aten._assert_tensor_metadata.default,), checked),
})  # fmt: skip


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Nodes that are equal to their input."""
    return find_by(gm, RULES)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Readers read the input."""
    rewrite_by(gm, match, RULES)


def _copies(x: Tensor) -> Tensor:
    x = torch.cat([x.sin()]).clone()
    return torch.nn.functional.pad(x, (0, 0)).repeat(1, 1).expand(4, 8).exp()


def _reduced(n: Tensor) -> Tensor:
    return (n * 2)[:, None].sum(1) + n[None].amax(0)


def _given(x: Tensor) -> Tensor:
    return x.clone()


def _two_results(x: Tensor) -> tuple[Tensor, Tensor]:
    y = x.sin()
    return y, y.clone()


def _numbers() -> tuple[Tensor]:
    return (torch.randn(4, 8),)


OPTIMIZATION = Optimization(
    name="remove-no-ops",
    summary="Drops operators that give back what they were given.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_copies), _numbers, matches=5),
        Example(lambda: Function(_reduced), lambda: (torch.arange(32).reshape(4, 8),), matches=2),
        Example(lambda: Function(lambda x: x.to(torch.float64) * 2), _numbers, matches=1),
        Example(lambda: Function(lambda x: torch.native_dropout(x.sin(), 0.0, True)[0].exp()), _numbers, matches=1),
    ),
    refusals=(
        Example(lambda: Function(_given), _numbers, reason="outlives the run"),
        Example(lambda: Function(_two_results), _numbers, reason="Two results"),
        Example(lambda: Function(lambda x: x.t().contiguous() * 2), _numbers, reason="another order"),
        Example(lambda: Function(lambda x: torch.native_dropout(x, 0.5, True)[0]), _numbers, reason="drops elements"),
        Example(lambda: Function(lambda x: x[None].mean(0)), _numbers, reason="+0.0"),
        Example(lambda: Function(lambda n: n.int()[None].sum(0)), _numbers, reason="changes the dtype"),
    ),
    exactness="bitwise",
)
