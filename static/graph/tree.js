// Groups in groups: phase, module path, runs of equal blocks. What is inside what, and which edges stand between whom.

const RUN = 30; // a group with more than twice as many loose ops is cut into runs
const REPEATS = 3; // as many equal blocks in a row become one

const HUB = 5; // a tensor that feeds as many children of one group is a hub

function group(id, label, parent, phase) {
  return { id, label, parent, phase, group: true, open: false, depth: 0, children: [], links: [], count: 0, repeat: 0, first: Infinity, last: -1 };
}

/**
 * The tree of a model. Leaves keep their model index; parameters and constants are folded into the ops that read them,
 * unless `unfold` asks for them as nodes.
 */
export function buildTree(model, { unfold = false } = {}) {
  const root = group("", "", null, -1);
  const phased = model.phases.length > 1;
  root.phased = phased;
  const groups = new Map([["", root]]);
  const at = (phase, path) => {
    const id = `${phase}/${path.join(".")}`;
    if (groups.has(id)) return groups.get(id);
    const parent = path.length ? at(phase, path.slice(0, -1)) : root;
    const made = group(id, path.length ? nameOf(path) : model.phases[phase], parent, phase);
    parent.children.push(made);
    groups.set(id, made);
    return made;
  };
  const leaves = new Array(model.count).fill(null);
  const folded = unfold ? new Set() : foldable(model);
  for (let index = 0; index < model.count; index++) {
    if (folded.has(index)) continue;
    const path = model.module[index] ? model.module[index].split(".") : [];
    const parent = phased || path.length ? at(model.phase[index], path) : root;
    leaves[index] = { id: `n:${model.key(index)}`, index, first: model.first[index], last: model.last[index], label: model.label[index], parent, tags: [], depth: 0 };
    parent.children.push(leaves[index]);
  }
  if (!phased) hoist(root);
  for (const index of folded) for (const edge of model.users[index]) leaves[edge.to]?.tags.push(index);
  if (phased) root.children.sort((a, b) => a.phase - b.phase);
  lifeOf(root);
  for (const leaf of leaves) {
    if (!leaf) continue;
    leaf.tags = [...new Set(leaf.tags)];
    // A tag that a later step brings makes no box taller that was there before: nothing below may move.
    // Nor does a late box get taller by one.
    const late = leaf.first > leaf.parent.first;
    leaf.tagRow = late ? [] : leaf.tags.filter((index) => model.inputs[leaf.index].some((edge) => edge.from === index && edge.first <= leaf.first));
  }
  squeeze(root);
  cutRuns(root);
  foldRepeats(root, model);
  countUp(root);
  const stubs = link(model, leaves, root);
  return { root, leaves, folded, stubs };
}

/** Parameters and constants that something reads in the first graph that has them. Those that nobody reads stay visible. */
function foldable(model) {
  const folded = new Set();
  for (let index = 0; index < model.count; index++) {
    const kind = model.kind[index];
    const read = model.users[index].some((edge) => edge.first === model.first[index]);
    if ((kind === 3 || kind === 5) && read && !model.inputs[index].length) folded.add(index);
  }
  return folded;
}

/** With one phase only, that phase is not a box. */
function hoist(root) {
  const children = [];
  for (const child of root.children) {
    if (child.group && child.id.endsWith("/")) children.push(...child.children);
    else children.push(child);
  }
  for (const child of children) child.parent = root;
  root.children = children;
}

/** `h` > `0` reads better as `h.0`. */
function nameOf(path) {
  const last = path[path.length - 1];
  return /^\d+$/.test(last) && path.length > 1 ? `${path[path.length - 2]}.${last}` : last;
}

/** A group lives as long as anything in it. */
function lifeOf(box) {
  for (const child of box.children) {
    if (child.group) lifeOf(child);
    box.first = Math.min(box.first, child.first);
    box.last = Math.max(box.last, child.last);
  }
}

/** What of a group was there first. Structure follows from it alone, so that a later step does not change what is inside what. */
const early = (box) => box.children.filter((child) => child.first === box.first);

/** A group that holds nothing but one group becomes one with it. */
function squeeze(box) {
  for (const child of box.children) if (child.group) squeeze(child);
  if (!box.parent) return;
  for (let first = early(box); first.length === 1 && first[0].group; first = early(box)) {
    const [only] = first;
    const told = only.label === box.label || only.label.startsWith(`${box.label}.`);
    box.label = told ? only.label : `${box.label}.${only.label}`;
    box.children = [...only.children, ...box.children.filter((child) => child !== only)];
    for (const child of box.children) child.parent = box;
  }
}

/** A long flat group is cut into runs in execution order, so that no layout is too large to read. */
function cutRuns(box) {
  for (const child of box.children) if (child.group) cutRuns(child);
  const loose = box.children.filter((child) => !child.group);
  if (loose.filter((child) => child.first === box.first).length <= 2 * RUN) return;
  const rest = box.children.filter((child) => child.group);
  let run = null;
  let [begun, size] = [0, RUN];
  for (const leaf of loose.sort((a, b) => a.index - b.index)) {
    const counts = leaf.first === box.first; // a late leaf joins the run around it
    if (!run || (counts && size === RUN)) {
      run = group(`${box.id}#${begun}`, `ops from ${begun + 1}`, box, box.phase);
      rest.push(run);
      size = 0;
    }
    if (counts) [begun, size] = [begun + 1, size + 1];
    leaf.parent = run;
    run.children.push(leaf);
  }
  box.children = rest;
  for (const made of rest) lifeOf(made);
}

/** Equal neighbours (the blocks of a transformer) become one group `×12`. */
function foldRepeats(box, model) {
  for (const child of box.children) if (child.group) foldRepeats(child, model);
  const made = [];
  let row = [];
  const close = () => {
    if (row.length < REPEATS) made.push(...row);
    else made.push(stack(box, row));
    row = [];
  };
  const shapes = new Map();
  for (const child of box.children) {
    if (!child.group) {
      made.push(child);
      continue;
    }
    shapes.set(child, structure(child, model));
    if (row.length && shapes.get(row[0]) !== shapes.get(child)) close();
    row.push(child);
  }
  close();
  if (made.length > 1 || !box.parent) box.children = made;
  else if (made.length === 1 && made[0].repeat) {
    box.repeat = made[0].repeat; // the group holds nothing else: it is the stack itself
    for (const child of box.children) child.parent = box;
  }
}

function stack(box, row) {
  const made = group(`${row[0].id}×${row.length}`, `${row[0].label} … ${row[row.length - 1].label}`, box, box.phase);
  made.children = row;
  made.repeat = row.length;
  [made.first, made.last] = [Math.min(...row.map((child) => child.first)), Math.max(...row.map((child) => child.last))];
  for (const child of row) child.parent = made;
  return made;
}

/** Equal text for groups of equal structure as it first was: ops, shapes, inner edges in order; names do not count. */
export function structure(box, model) {
  const order = new Map();
  const parts = [];
  const walk = (item) => {
    if (item.group) {
      parts.push("(", item.repeat || "");
      item.children.forEach(walk);
      parts.push(")");
      return;
    }
    const { index } = item;
    if (model.first[index] > box.first) return;
    order.set(index, order.size);
    const inputs = model.inputs[index].filter((edge) => edge.first <= box.first).map((edge) => (order.has(edge.from) ? order.get(edge.from) : "x"));
    parts.push(model.target[index], model.shape[index], model.dtype[index], inputs.join());
  };
  walk(box);
  return parts.join("|");
}

function countUp(box) {
  box.count = 0;
  for (const child of box.children) {
    child.depth = box.depth + 1;
    if (child.group) countUp(child);
    box.count += child.group ? child.count : 1;
  }
}

/**
 * Every edge belongs to the lowest group that holds both ends, between two of its children. Edges between phases, and those of one
 * tensor that feeds many children, would cross everything: they become stubs, labelled at both ends.
 */
function link(model, leaves, root) {
  const lifted = model.edges.map((edge) => lift(leaves[edge.from], leaves[edge.to]));
  const readers = new Map();
  model.edges.forEach((edge, number) => {
    if (!lifted[number]) return;
    const key = `${edge.from}@${lifted[number][0].parent.id}`;
    if (edge.first > model.first[edge.from]) return; // a later reader makes no hub of what was none
    if (!readers.has(key)) readers.set(key, new Set());
    readers.get(key).add(lifted[number][1]);
  });
  const stubs = [];
  const known = new Map();
  // Oldest first: the order of links, which a layout depends on, is then not changed by what a later step brings.
  const numbers = model.edges.map((_, number) => number).sort((one, other) => model.edges[one].first - model.edges[other].first || one - other);
  numbers.forEach((number) => {
    const edge = model.edges[number];
    if (!lifted[number]) return;
    const [a, b] = lifted[number];
    const between = root.phased && a.parent === root;
    if (between || readers.get(`${edge.from}@${a.parent.id}`)?.size >= HUB) {
      stubs.push(number);
      return;
    }
    const key = `${a.id}>${b.id}`;
    if (!known.has(key)) {
      known.set(key, { from: a, to: b, edges: [], first: Infinity });
      a.parent.links.push(known.get(key));
    }
    known.get(key).edges.push(number);
    known.get(key).first = Math.min(known.get(key).first, edge.first);
  });
  return stubs;
}

/** Two leaves -> the children of their lowest common group that hold them; null when a leaf is folded. */
function lift(from, to) {
  let [a, b] = [from, to];
  if (!a || !b) return null;
  while (a.depth > b.depth) a = a.parent;
  while (b.depth > a.depth) b = b.parent;
  while (a.parent !== b.parent) [a, b] = [a.parent, b.parent];
  return a === b ? null : [a, b];
}

/** Opens groups from the top, marked ones first, while no more than `budget` items are visible; what is open stays open. */
export function openFirst(root, marked = new Set(), budget = 60, markedBudget = 110) {
  root.open = true;
  let visible = 0;
  let waiting = [];
  const look = (box) => {
    visible += box.children.length;
    for (const child of box.children) {
      if (!child.group) continue;
      if (child.open) look(child);
      else waiting.push(child);
    }
  };
  look(root);
  const rank = (box) => (marked.has(box) ? 1 : 0);
  while (waiting.length) {
    waiting.sort((a, b) => rank(b) - rank(a) || a.depth - b.depth || b.count - a.count);
    const next = waiting.shift();
    if (visible + next.children.length > (rank(next) ? markedBudget : budget)) continue;
    next.open = true;
    visible += next.children.length;
    waiting = waiting.concat(next.children.filter((child) => child.group));
  }
}

export function everyGroup(root, visit) {
  visit(root);
  for (const child of root.children) if (child.group) everyGroup(child, visit);
}

/** The item on screen that stands for a leaf: itself, or the outermost closed group around it. */
export function shownFor(leaf) {
  let shown = leaf;
  for (let box = leaf.parent; box; box = box.parent) if (!box.open) shown = box;
  return shown;
}
