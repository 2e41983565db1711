// Tree and layout of the graph view: groups in groups, each laid out alone, its edges lifted to the lowest common group.
import { Graph, layout } from "./dagre.esm.js";

const BUDGET = 60; // items visible at first
const MARKED_BUDGET = 110; // a change is worth more room
const RUN = 30; // a group with more than twice as many ops is cut into runs
const HEADER = 28;
const PAD = 12;

// ---------------------------------------------------------------- the tree

function makeGroup(id, label, parent) {
  const depth = parent ? parent.depth + 1 : 0;
  return { id, label, parent, depth, group: true, open: false, children: [], links: new Map(), count: 0, marks: [0, 0, 0, 0, 0] };
}

export function buildTree(data) {
  const root = makeGroup("", "", null);
  const groups = new Map([["", root]]);
  const phased = data.phases.length > 1;
  root.phased = phased;
  const groupAt = (path) => {
    const id = path.join("\u0000");
    if (!groups.has(id)) {
      const parent = groupAt(path.slice(0, -1));
      const group = makeGroup(id, groupLabel(path, phased), parent);
      parent.children.push(group);
      groups.set(id, group);
    }
    return groups.get(id);
  };
  const leaves = data.nodes.map(([name, label, shape, phase, module, kind, mark, inputs, isOutput], index) => {
    const path = data.modules[module] ? data.modules[module].split(".") : [];
    const parent = groupAt(phased ? [data.phases[phase], ...path] : path);
    const leaf = { id: `node ${name}`, index, name, label, shape, kind, mark, inputs, isOutput, parent, users: [] };
    parent.children.push(leaf);
    return leaf;
  });
  for (const leaf of leaves) for (const input of leaf.inputs) leaves[input].users.push(leaf.index);
  if (phased) root.children.sort((a, b) => data.phases.indexOf(a.label) - data.phases.indexOf(b.label));
  squeeze(root);
  cutRuns(root);
  countUp(root);
  link(leaves);
  return { root, leaves };
}

/** `h` > `0` reads better as `h.0`. */
function groupLabel(path, phased) {
  const last = path[path.length - 1];
  return /^\d+$/.test(last) && path.length > (phased ? 2 : 1) ? `${path[path.length - 2]}.${last}` : last;
}

/** A group that holds nothing but one group becomes one with it. */
function squeeze(group) {
  for (const child of group.children) if (child.group) squeeze(child);
  if (!group.parent) return;
  while (group.children.length === 1 && group.children[0].group) {
    const only = group.children[0];
    const nested = only.label !== group.label && !only.label.startsWith(`${group.label}.`);
    group.label = nested ? `${group.label}.${only.label}` : only.label;
    group.children = only.children;
    for (const child of group.children) child.parent = group;
  }
}

/** A long flat group is cut into runs in execution order, so that no layout is too large to read. */
function cutRuns(group) {
  for (const child of group.children) if (child.group) cutRuns(child);
  const leaves = group.children.filter((child) => !child.group);
  if (leaves.length <= 2 * RUN) return;
  const rest = group.children.filter((child) => child.group);
  for (let start = 0; start < leaves.length; start += RUN) {
    const part = leaves.slice(start, start + RUN);
    const run = makeGroup(`${group.id}\u0000run ${start}`, `ops ${start + 1}–${start + part.length}`, group);
    run.children = part;
    for (const leaf of part) leaf.parent = run;
    rest.push(run);
  }
  group.children = rest;
}

function countUp(group) {
  for (const child of group.children) {
    if (child.group) {
      child.depth = group.depth + 1;
      countUp(child);
      group.count += child.count;
      for (const mark of [1, 2, 3, 4]) group.marks[mark] += child.marks[mark];
    } else {
      group.count += 1;
      group.marks[child.mark] += 1;
    }
  }
  group.marked = group.marks.slice(1).some((count) => count > 0);
}

/** Every edge is drawn between two children of the lowest group that holds both of its ends. */
function link(leaves) {
  for (const to of leaves) {
    for (const input of to.inputs) {
      let a = leaves[input];
      let b = to;
      const level = (item) => (item.group ? item.depth : item.parent.depth + 1);
      while (level(a) > level(b)) a = a.parent;
      while (level(b) > level(a)) b = b.parent;
      while (a.parent !== b.parent) [a, b] = [a.parent, b.parent];
      if (a === b) continue;
      const key = `${a.id}\u0001${b.id}`;
      const known = a.parent.links.get(key);
      if (known) known.count += 1;
      else a.parent.links.set(key, { from: a, to: b, count: 1 });
    }
  }
}

/** Opens groups from the top, those with changes first, until the budget of visible items is spent. */
export function openAtFirst(root) {
  root.open = true;
  let visible = root.children.length;
  let waiting = root.children.filter((child) => child.group);
  while (waiting.length) {
    waiting.sort((a, b) => b.marked - a.marked || a.depth - b.depth || b.count - a.count);
    const next = waiting.shift();
    if (visible + next.children.length > (next.marked ? MARKED_BUDGET : BUDGET)) continue;
    next.open = true;
    visible += next.children.length;
    waiting = waiting.concat(next.children.filter((child) => child.group));
  }
}

// ---------------------------------------------------------------- the layout

const textWidth = (text, size) => text.length * size * 0.58;

function measure(item) {
  if (item.group) {
    item.width = Math.min(260, Math.max(128, textWidth(item.label, 13) + (item.marked ? 92 : 54)));
    item.height = 46;
  } else {
    item.width = Math.min(220, Math.max(84, Math.max(textWidth(item.label, 12.5), textWidth(item.shape, 10.5)) + 26));
    item.height = item.shape ? 40 : 28;
  }
}

export function place(group, memo) {
  for (const child of group.children) {
    if (child.group && child.open) place(child, memo);
    else measure(child);
  }
  const order = new Map(group.children.map((child, index) => [child, index]));
  const links = [...group.links.values()];
  const pairs = links.map((edge) => [order.get(edge.from), order.get(edge.to)]);
  const sizes = group.children.map((child) => [Math.round(child.width), Math.round(child.height)]);
  const key = JSON.stringify([Boolean(group.phased), sizes, pairs]);
  if (!memo.has(key)) memo.set(key, (group.phased ? arrangePhases : arrange)(sizes, pairs));
  const found = memo.get(key);
  const top = group.parent ? HEADER + 6 : PAD;
  group.children.forEach((child, index) => {
    child.x = found.places[index][0] + PAD;
    child.y = found.places[index][1] + top;
  });
  links.forEach((edge, index) => {
    edge.points = found.curves[index].map(([x, y]) => [x + PAD, y + top]);
  });
  group.width = Math.max(found.width + 2 * PAD, textWidth(group.label, 13) + 60);
  group.height = found.height + top + PAD;
}

/** Lays out boxes by their edges; boxes without any stand in rows below. */
function arrange(sizes, pairs) {
  const graph = new Graph({ multigraph: true });
  graph.setGraph({ rankdir: "TB", nodesep: 16, ranksep: 26, edgesep: 8, marginx: 0, marginy: 0 });
  graph.setDefaultEdgeLabel(() => ({}));
  const joined = new Set(pairs.flat());
  for (const index of joined) graph.setNode(String(index), { width: sizes[index][0], height: sizes[index][1] });
  pairs.forEach(([from, to], index) => graph.setEdge(String(from), String(to), {}, String(index)));
  let [width, height] = [0, 0];
  if (joined.size) {
    layout(graph);
    ({ width, height } = graph.graph());
  }
  const places = sizes.map((size, index) => {
    if (!joined.has(index)) return [0, 0];
    const { x, y } = graph.node(String(index));
    return [x - size[0] / 2, y - size[1] / 2];
  });
  const curves = pairs.map(([from, to], index) => {
    const edge = graph.edge({ v: String(from), w: String(to), name: String(index) });
    return edge.points.map(({ x, y }) => [x, y]);
  });
  return rows({ places, curves, width, height }, sizes, joined);
}

/** Phases stand side by side in their order, heads in line; an edge runs through the gap, or over the phases in between. */
function arrangePhases(sizes, pairs) {
  const [gap, above] = [64, 30];
  let x = 0;
  const places = sizes.map(([width]) => {
    const at = [x, above];
    x += width + gap;
    return at;
  });
  const curves = pairs.map(([from, to]) => {
    const ahead = to > from;
    const start = [places[from][0] + (ahead ? sizes[from][0] : 0), above + 14 + (ahead ? 0 : 14)];
    const end = [places[to][0] + (ahead ? 0 : sizes[to][0]), above + 14 + (ahead ? 0 : 14)];
    if (Math.abs(to - from) === 1) return [start, end];
    const turn = ahead ? 34 : -34;
    return [start, [start[0] + turn, start[1]], [start[0] + turn, 4], [end[0] - turn, 4], [end[0] - turn, end[1]], end];
  });
  return { places, curves, width: x - gap, height: above + Math.max(...sizes.map((size) => size[1])) };
}

function rows(found, sizes, joined) {
  const limit = Math.max(found.width, 520);
  let [x, y, tallest] = [0, found.height ? found.height + 22 : 0, 0];
  sizes.forEach((size, index) => {
    if (joined.has(index)) return;
    if (x && x + size[0] > limit) [x, y, tallest] = [0, y + tallest + 14, 0];
    found.places[index] = [x, y];
    x += size[0] + 14;
    tallest = Math.max(tallest, size[1]);
    found.width = Math.max(found.width, x - 14);
    found.height = Math.max(found.height, y + tallest);
  });
  return found;
}
