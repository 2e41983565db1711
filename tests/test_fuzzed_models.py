"""Random models: no optimization of the catalog changes what they compute, and wrong ones planted here are found out.

`python -m benchmarks.fuzz --models 500` is the long run of the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import fx

from optimizers.base import Match, Miss, Optimization
from optimizers.record import Claim, Exactness
from tests.fuzzer.kernels import interpreted_kernels
from tests.fuzzer.minimize import minimized
from tests.fuzzer.models import RandomModel, random_model
from tests.fuzzer.trial import Outcome, tried

aten = torch.ops.aten
SEEDS = range(6)
ANY = Claim("any", "any", "any", "any")


def told(model: RandomModel, outcome: Outcome) -> str:
    return "\n".join([f"seed {model.seed}", *map(str, outcome.violations), model.text])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # of small tensors, several threads cost more than they save
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def outcomes() -> list[tuple[RandomModel, Outcome]]:
    models = map(random_model, SEEDS)
    with interpreted_kernels():
        return [(model, tried(model.source(), model.seed, rounds=1, special=model.special)) for model in models]


def test_no_optimization_breaks_a_promise_on_random_models(outcomes: list[tuple[RandomModel, Outcome]]) -> None:
    broken = [told(model, outcome) for model, outcome in outcomes if outcome.violations]
    assert not broken, "\n\n".join(broken)


def test_nearly_all_random_models_are_captured_in_both_modes(outcomes: list[tuple[RandomModel, Outcome]]) -> None:
    captured = sum(outcome.captured for _, outcome in outcomes)
    assert captured >= 0.9 * 2 * len(outcomes), [outcome.not_captured for _, outcome in outcomes]


def test_random_models_give_optimizations_something_to_do(outcomes: list[tuple[RandomModel, Outcome]]) -> None:
    applied = {name for _, outcome in outcomes for name, count in outcome.matched.items() if count}
    assert len(applied) >= 3, applied


def test_a_seed_always_gives_the_same_model() -> None:
    texts = [random_model(seed).text for seed in SEEDS]
    assert texts == [random_model(seed).text for seed in SEEDS]
    assert len(set(texts)) == len(SEEDS)


def test_random_models_have_what_optimizations_could_get_wrong() -> None:
    lines = "\n".join(random_model(seed).text for seed in range(300))
    for sign in ("bfloat16", "float64", "nan, inf", ".expand(", "_()", ".copy_(", "buffer_0", "dropout", ".weight = ", "randn([0"):
        assert sign in lines, sign


# --- wrong on purpose ---


def planted(name: str, targets: tuple[object, ...], rewrite: Callable[[fx.GraphModule, fx.Node], None], **more: object) -> Optimization:
    """An optimization that changes every node of these targets, and claims to be exact."""
    fits: Callable[[fx.Node], bool] = more.pop("fits", lambda node: True)  # type: ignore[assignment]

    def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
        yield from [Match(node, (node,)) for node in gm.graph.nodes if node.target in targets and node.users and fits(node)]

    def rewritten(gm: fx.GraphModule, match: Match) -> None:
        with gm.graph.inserting_before(match.anchor):
            rewrite(gm, match.anchor)

    exactness: Exactness = more.pop("exactness", "rounding")  # type: ignore[assignment]
    return replace(Optimization(name, "wrong on purpose", find, rewritten, ANY, (), (), exactness), **more)  # type: ignore[arg-type]


def put(gm: fx.GraphModule, node: fx.Node, target: object, *args: object, **kwargs: object) -> None:
    node.replace_all_uses_with(gm.graph.call_function(target, args, kwargs))  # type: ignore[arg-type]


def forget(gm: fx.GraphModule, node: fx.Node) -> None:
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]


def swap(gm: fx.GraphModule, node: fx.Node) -> None:
    node.args = (node.args[1], node.args[0])


def zeros(gm: fx.GraphModule, node: fx.Node) -> None:
    put(gm, node, aten.zeros_like.default, node.args[0], dtype=node.meta["val"].dtype)


def narrow_and_back(gm: fx.GraphModule, node: fx.Node) -> None:
    low = gm.graph.call_function(aten._to_copy.default, (node,), {"dtype": torch.float16})
    back = gm.graph.call_function(aten._to_copy.default, (low,), {"dtype": node.meta["val"].dtype})
    node.replace_all_uses_with(back, delete_user_cb=lambda user: user is not low)
    node.append(low)
    low.append(back)


def other_dtype(gm: fx.GraphModule, node: fx.Node) -> None:
    wide = gm.graph.call_function(aten._to_copy.default, (node,), {"dtype": torch.float64})
    node.replace_all_uses_with(wide, delete_user_cb=lambda user: user.op == "output")
    node.append(wide)


def first_draw(gm: fx.GraphModule, node: fx.Node) -> None:
    """The draw before it of the same shape serves its readers too; it is still made, so that later draws stay as they were."""
    earlier = [each for each in gm.graph.nodes if each.target is node.target and drawn_shape(each) == drawn_shape(node)]
    node.replace_all_uses_with(earlier[0])


def drawn_shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta["val"]
    return tuple((value[0] if isinstance(value, tuple) else value).shape)


def in_place(gm: fx.GraphModule, node: fx.Node) -> None:
    put(gm, node, aten.add_.Tensor, *node.args)


def forget_mutation(gm: fx.GraphModule, node: fx.Node) -> None:
    """Every output that is a buffer's new value becomes the old one."""
    output = gm.graph.output_node()
    if any(user is output for user in node.users) and isinstance(node.args[0], fx.Node) and node.args[0].op == "placeholder":
        node.replace_all_uses_with(node.args[0], delete_user_cb=lambda user: user is output)


def one_more(gm: fx.GraphModule, node: fx.Node) -> None:
    more = gm.graph.call_function(aten.add.Scalar, (node, 1))
    node.replace_all_uses_with(more, delete_user_cb=lambda user: user is not more)
    node.append(more)


def is_scalar(value: float) -> Callable[[fx.Node], bool]:
    return lambda node: not isinstance(node.args[1], fx.Node) and node.args[1] == value


def same_kind(node: fx.Node) -> bool:
    first, value = node.args[0], node.meta["val"]
    return isinstance(first, fx.Node) and first.meta["val"].dtype == value.dtype and first.meta["val"].shape == value.shape


def floats(node: fx.Node) -> bool:
    return node.meta["val"].is_floating_point()


def writes_its_input(node: fx.Node) -> bool:
    return same_kind(node) and node.args[0].op == "placeholder"  # type: ignore[union-attr]


def second_serves(node: fx.Node) -> bool:
    given, value = node.args[1].meta["val"], node.meta["val"]  # type: ignore[union-attr]
    return given.shape == value.shape and given.dtype == value.dtype


def infinite(gm: fx.GraphModule, node: fx.Node) -> None:
    """Not a number becomes infinite; every other value stays."""
    changed = gm.graph.call_function(aten.nan_to_num.default, (node, float("inf"), float("inf"), float("-inf")))
    node.replace_all_uses_with(changed, delete_user_cb=lambda user: user is not changed)
    node.append(changed)


def find_and_change(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Reads, and turns the operands of sums around on the way."""
    for node in gm.graph.nodes:
        if node.target in ADD and isinstance(node.args[1], fx.Node):
            node.args = (node.args[1], node.args[0])
            yield Miss(node, "It is a sum.")


MUL, ADD, SUB = (aten.mul.Tensor, aten.mul.Scalar), (aten.add.Tensor,), (aten.sub.Tensor,)
POINTWISE, IDENTITIES = ("pointwise",), ("identities",)
# each with the themes of the models that it is tried on, and whether their inputs hold special values
WRONG: list[tuple[Optimization, tuple[str, ...], bool]] = [
    (planted("drops-a-factor-of-2", MUL, forget, fits=lambda node: is_scalar(2)(node) and same_kind(node)), IDENTITIES, False),
    (planted("swaps-a-subtraction", SUB, swap, fits=lambda node: isinstance(node.args[1], fx.Node)), POINTWISE, False),
    (planted("takes-x-times-0-for-0", MUL, zeros, fits=is_scalar(0), exactness="bitwise"), IDENTITIES, True),
    (planted("takes-x-minus-x-for-0", SUB, zeros, fits=lambda node: node.args[0] is node.args[1], exactness="bitwise"), IDENTITIES, True),
    (planted("takes-x-plus-0-for-x", ADD, forget, fits=lambda node: is_scalar(0)(node) and same_kind(node), exactness="bitwise"), IDENTITIES, True),
    (planted("forgets-a-condition", (aten.where.self,), lambda gm, node: node.replace_all_uses_with(node.args[1]), fits=second_serves), ("choices",), False),
    (planted("takes-infinite-for-not-a-number", SUB, infinite, fits=floats), IDENTITIES, True),
    (planted("rounds-to-float16", (aten.sin.default, aten.exp.default, aten.tanh.default), narrow_and_back, fits=floats), POINTWISE, False),
    (planted("changes-a-dtype", (*MUL, *ADD), other_dtype, fits=lambda node: node.meta["val"].dtype == torch.float32), POINTWISE, False),
    (planted("merges-two-draws", (aten.rand_like.default,), first_draw), ("random",), False),
    (planted("merges-two-dropouts", (aten.native_dropout.default,), first_draw), ("random",), False),
    (planted("writes-into-its-input", ADD, in_place, fits=writes_its_input), POINTWISE, False),
    (planted("forgets-a-buffer", (*ADD, *MUL), forget_mutation), ("in place",), False),
    (planted("is-off-by-one", (aten.argmax.default, aten.cumsum.default), one_more, fits=lambda node: not floats(node)), ("reductions",), False),
    (planted("forgets-a-flip", (aten.flip.default, aten.roll.default), forget), ("shapes",), False),
    (planted("forgets-a-clamp", (aten.clamp.default, aten.relu.default), forget), POINTWISE, False),
    (planted("breaks-its-claim", (*MUL, *ADD), one_more, fits=floats, claim=Claim("lower", "any", "any", "any")), POINTWISE, False),
    (replace(planted("finds-and-changes", ADD, forget), find=find_and_change), POINTWISE, False),
]  # fmt: skip


# where the search below first succeeds, so that it begins there; what is not found there any more is looked for everywhere
FOUND_AT = {
    "drops-a-factor-of-2": 9, "swaps-a-subtraction": 2, "takes-x-times-0-for-0": 10, "takes-x-minus-x-for-0": 5, "takes-x-plus-0-for-x": 15,
    "forgets-a-condition": 3, "rounds-to-float16": 7, "changes-a-dtype": 2, "writes-into-its-input": 9, "forgets-a-buffer": 1,
    "is-off-by-one": 10, "forgets-a-flip": 6, "forgets-a-clamp": 2, "finds-and-changes": 2,
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "themes", "special"), WRONG, ids=[wrong.name for wrong, _, _ in WRONG])
def test_wrong_optimization_is_found_out(wrong: Optimization, themes: tuple[str, ...], special: bool) -> None:
    modes = ("training",) if themes == ("random",) else ("inference",)
    for seed in (FOUND_AT.get(wrong.name, 0), *range(40)):
        model = random_model(seed, themes=themes, special=special)
        if tried(model.source(), seed, [wrong], modes, rounds=0).violations:
            return
    pytest.fail(f"{wrong.name} was not found out")


def test_a_model_that_shows_a_fault_is_shortened_to_the_lines_that_show_it() -> None:
    def fails(model: RandomModel) -> bool:
        return any(" * 0" in line for line in model.lines)

    model = next(model for model in map(random_model, range(100, 200)) if fails(model) and len(model.lines) > 8)
    short = minimized(model, fails)
    assert fails(short)
    assert not short.runs()
    assert len(short.lines) <= 4, short.text
