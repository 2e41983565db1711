"""What a step removed, added, changed and kept: two snapshots in, one record out."""

from __future__ import annotations

from graphs.record import Diff, GraphSnapshot, NodeRecord


def diff(before: GraphSnapshot, after: GraphSnapshot) -> Diff:
    """Compares two graphs by node name; a node is changed when its target, arguments, inputs or output differ."""
    old, new = before.by_name(), after.by_name()
    both = [name for name in new if name in old]
    changed = tuple(name for name in both if _content(old[name]) != _content(new[name]))
    return Diff(
        removed=tuple(name for name in old if name not in new),
        added=tuple(name for name in new if name not in old),
        changed=changed,
        kept=len(both) - len(changed),
    )


def _content(node: NodeRecord) -> tuple[object, ...]:
    return (node.op, node.target, node.detail, node.inputs, node.shape, node.dtype, node.phase)
