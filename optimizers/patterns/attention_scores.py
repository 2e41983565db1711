"""From a softmax up to the product of queries and keys: the scale and the masks on the way."""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from optimizers.patterns.attention_axes import CASTS, MOVES, Axes, places, shape, through, whole
from optimizers.patterns.attention_products import NotAttention, Product, is_live, peeled, product

aten = torch.ops.aten
SCALES: dict[Any, int] = {aten.mul.Tensor: 1, aten.mul.Scalar: 1, aten.div.Tensor: -1, aten.div.Scalar: -1}
FILLS = (aten.masked_fill.Scalar, aten.masked_fill.Tensor, aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf)
SHALLOWEST = -1e4  # a filling number above this may not hide a key
REACH = 40  # operators between product and softmax


@dataclass(frozen=True)
class Softmax:
    """A softmax, by torch's operator or written out: what it normalizes, over which dimension, and its own nodes."""

    node: fx.Node
    given: fx.Node
    dim: int
    nodes: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Masking:
    """One thing done to the scores: `factor · mask` is added, or `fill` put in their place where `mask` is `when`.

    Attributes:
        axes: which index each dimension of the scores is at this point; the mask broadcasts against them.
        factor: the scale that acts after it, and the sign.
    """

    node: fx.Node
    mask: fx.Node
    axes: Axes
    factor: float
    fill: float | None = None
    when: bool = True


@dataclass(frozen=True)
class Scores:
    """What goes into the softmax.

    Attributes:
        product: of queries and keys; its result has the indices N, R (rows) and C (columns).
        sizes: of N, R and C.
        queries, keys: which of R and C are they.
        axes: of the softmax.
        scale: between the product's operands and the softmax, `after` the part of it that acts on the product's result.
        maskings: first to last.
    """

    product: Product
    sizes: dict[str, int]
    queries: str
    keys: str
    axes: Axes
    scale: float
    after: float
    maskings: tuple[Masking, ...]
    nodes: tuple[fx.Node, ...]


def softmax_at(node: fx.Node) -> Softmax | None:
    """The softmax that this node is the result of."""
    if node.target in (aten._softmax.default, aten._safe_softmax.default):
        return Softmax(node, node.args[0], node.args[1] % max(1, len(shape(node))), (node,))  # type: ignore[arg-type, operator]
    if node.target is aten.div.Tensor:
        return _by_hand(node)
    return None


def _by_hand(node: fx.Node) -> Softmax | None:
    """exp(x) / sum(exp(x)), or with the largest x subtracted first, which changes nothing but the range of exp."""
    powers, total = node.args[:2]
    inner = _over(total, (aten.sum.dim_IntList,), powers)
    if inner is None or not isinstance(powers, fx.Node) or powers.target is not aten.exp.default:
        return None
    given, nodes, dim = powers.args[0], [node, powers, *inner[0]], inner[1]
    assert isinstance(given, fx.Node)
    if given.target is aten.sub.Tensor and given.kwargs.get("alpha", 1) == 1:
        largest = _over(given.args[1], (aten.amax.default, aten.max.dim), given.args[0])
        if largest is not None and largest[1] == dim:
            nodes += [given, *largest[0]]
            given = given.args[0]
    return Softmax(node, given, dim, tuple(nodes))  # type: ignore[arg-type]


def _over(node: Any, targets: tuple[Any, ...], given: Any) -> tuple[list[fx.Node], int] | None:
    """(nodes, dimension) when the node is a reduction of `given` over one dimension, kept or put back with size 1."""
    passed: list[fx.Node] = []
    while isinstance(node, fx.Node) and node.target not in targets:
        if node.target not in (aten.detach.default, aten.alias.default, aten.unsqueeze.default, operator.getitem):
            return None
        passed.append(node)
        node = node.args[0]
    if not isinstance(node, fx.Node) or node.args[0] is not given or len(node.args) < 2:
        return None
    dims = places(node.args[1], len(shape(given)))
    dim = dims[0] if len(dims) == 1 else -1
    kept = passed[0] if passed else node
    wanted = [1 if at == dim else size for at, size in enumerate(shape(given))]
    return ([*passed, node], dim) if dim >= 0 and list(shape(kept)) == wanted else None


def read_scores(softmax: Softmax, dead: Collection[fx.Node]) -> Scores:
    """Walks up from the softmax to the product, then down again to say which index each dimension is.

    Raises:
        NotAttention: something else stands in the way, or somebody else reads the scores.
    """
    path = _path(softmax, dead)
    found = product(path[-1])
    assert found is not None
    rows, columns = shape(found.node)[-2:]
    sizes = {"N": shape(found.node)[0] if len(shape(found.node)) == 3 else 1, "R": rows, "C": columns}
    lead = (whole("N", sizes["N"]),) if len(shape(found.node)) == 3 else ()
    axes: Axes = (*lead, whole("R", rows), whole("C", columns))
    factor, maskings = 1.0, []
    if found.added is not None:
        maskings.append(Masking(found.node, found.added, axes, found.beta))
    for node in reversed(path[:-1]):
        masking = _masking(node)
        if masking is not None:
            maskings.append(Masking(node, unexpanded(masking[0]), axes, *masking[1:]))
        elif (scale := scale_of(node)) is not None:
            factor *= scale
            maskings = [_scaled(masking, scale) for masking in maskings]
        else:
            moved = through(node, axes)
            if moved is None:
                raise NotAttention(f"The scores are repeated or cut apart at {node.name}.")
            axes = moved
    keys = next((root for root in ("C", "R") if axes[softmax.dim] == whole(root, sizes[root])), None)
    if keys is None:
        raise NotAttention("Its softmax is not over all keys of a query: it is over another dimension, or over a part of the keys.")
    scale = factor * found.alpha
    return Scores(found, sizes, "R" if keys == "C" else "C", keys, axes, scale, factor, tuple(maskings), tuple(reversed(path)))


def _scaled(masking: Masking, scale: float) -> Masking:
    return Masking(masking.node, masking.mask, masking.axes, masking.factor * scale, masking.fill, masking.when)


def _path(softmax: Softmax, dead: Collection[fx.Node]) -> list[fx.Node]:
    """The nodes from the softmax's input up to the product."""
    path: list[fx.Node] = []
    node, allowed = softmax.given, set(softmax.nodes)
    while True:
        if node.meta.get("origin") is not None and node.meta["origin"].phase == "backward":
            raise NotAttention("Its scores are computed in backward.")
        outside = [user for user in node.users if user not in allowed and is_live(user, dead)]
        if outside:
            raise NotAttention(f"The scores are also read outside, by {outside[0].name}, so they must exist.")
        path.append(node)
        allowed.add(node)
        if product(node) is not None:
            return path
        if len(path) > REACH or node.op != "call_function" or not any(isinstance(read, fx.Node) for read in node.args):
            raise NotAttention("No product of queries and keys stands before it.")
        node = _before(node)


def _before(node: fx.Node) -> fx.Node:
    """The scores before what this node does to them."""
    if node.target in MOVES or scale_of(node) is not None:
        return node.args[0]  # type: ignore[return-value]
    if _masking(node) is not None:
        return _scores_of(node)  # type: ignore[return-value]
    raise NotAttention(f"Between the product of queries and keys and the softmax stands {node.name}, which the kernel cannot do.")


def scale_of(node: fx.Node) -> float | None:
    """The number that the node multiplies with; None when it does something else."""
    if node.target not in SCALES:
        return None
    number = number_of(node.args[1])
    if number is None or not number or not shape(node.args[0]):
        return None
    return number ** SCALES[node.target]


def number_of(value: Any) -> float | None:
    """A number, or the number that a filled scalar holds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, fx.Node) or shape(value) != () or not isinstance(value.meta.get("val"), Tensor):
        return None
    if value.target is aten.full.default:
        return number_of(value.args[1])
    if value.target in (aten.scalar_tensor.default, *CASTS, aten.detach.default, aten.lift_fresh_copy.default, aten.alias.default):
        return number_of(value.args[0])
    if value.target is aten.zeros.default:
        return 0.0
    if value.op == "get_attr":
        held = getattr(value.graph.owning_module, str(value.target), None)
        real = isinstance(held, Tensor) and type(held) is Tensor and held.device.type == "cpu"
        return float(held) if real else None  # type: ignore[arg-type]
    return None


def _scores_of(node: fx.Node) -> fx.Node | None:
    """Which operand of a masking operator holds the scores."""
    if node.target in (aten.masked_fill.Scalar, aten.masked_fill.Tensor):
        chosen = node.args[0]
    elif node.target in (aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf):
        chosen = node.args[1] if number_of(node.args[2]) is not None else node.args[2]
    else:
        one, other = node.args[:2]
        chosen = one if _leads_to_product(one) or node.target is aten.sub.Tensor else other
        if chosen is other and not _leads_to_product(other):
            return None
    return chosen if isinstance(chosen, fx.Node) and shape(chosen) == shape(node) else None


def _leads_to_product(node: Any) -> bool:
    """Only moves, scales and masks stand between the node and a product of its own size."""
    for _ in range(REACH):
        if product(node) is not None:
            return True
        if not isinstance(node, fx.Node) or node.op != "call_function" or not node.args:
            return False
        if node.target in FILLS or node.target in (aten.add.Tensor, aten.sub.Tensor):
            given = [part for part in node.args if isinstance(part, fx.Node) and shape(part) == shape(node) and part.target != "get_attr"]
            given = [part for part in given if part.meta["val"].is_floating_point()]
            if not given:
                return False
            node = given[0] if len(given) == 1 else next((part for part in given if _leads_to_product_shortly(part)), given[0])
        elif node.target in MOVES or scale_of(node) is not None:
            node = node.args[0]
        else:
            return False
    return False


def _leads_to_product_shortly(node: Any) -> bool:
    """The same without looking behind further masks, which keeps the search linear."""
    while isinstance(node, fx.Node) and (node.target in MOVES or scale_of(node) is not None):
        node = node.args[0]
    return product(node) is not None


def _masking(node: fx.Node) -> tuple[fx.Node, float, float | None, bool] | None:
    """(mask, factor, fill, when) of an operator that masks scores; None when it does something else."""
    if node.target in (aten.add.Tensor, aten.sub.Tensor):
        scores = _scores_of(node)
        mask = next((part for part in node.args if part is not scores), None)
        if scores is None or not isinstance(mask, fx.Node) or mask is scores:
            return None
        sign = -1.0 if node.target is aten.sub.Tensor else 1.0
        alpha = float(node.kwargs.get("alpha", 1))  # type: ignore[arg-type]
        if alpha != 1 and scores is not node.args[0]:
            return None
        return mask, sign * alpha, None, True
    if node.target not in FILLS or _scores_of(node) is None:
        return None
    if node.target in (aten.masked_fill.Scalar, aten.masked_fill.Tensor):
        mask, fill, when = node.args[1], number_of(node.args[2]), True
    else:
        last = number_of(node.args[2]) is not None
        mask, fill, when = node.args[0], number_of(node.args[2 if last else 1]), not last
    if fill is None or not isinstance(mask, fx.Node):
        return None
    if not fill <= SHALLOWEST:
        raise NotAttention(f"The mask puts {fill:g} in the place of scores, which is not low enough to hide a key.")
    return mask, 1.0, fill, when


def unexpanded(node: fx.Node) -> fx.Node:
    """A mask before it was repeated: the kernel repeats it by itself."""
    while node.target is aten.expand.default:
        node = node.args[0]  # type: ignore[assignment]
    return node


def same_condition(one: Any, other: Any) -> bool:
    """Are two conditions one?"""
    base, turned = peeled(unexpanded(one))
    return (unexpanded(base), turned) == (unexpanded(peeled(other)[0]), peeled(other)[1])
