// Groups in groups: phase, module path, runs of equal blocks. What is inside what, and which edges stand between whom.

const RUN = 30; // a group with more than twice as many loose ops is cut into runs
const REPEATS = 3; // as many equal blocks in a row become one

const HUB = 5; // a tensor that feeds as many children of one group is a hub

function group(id, label, parent, phase) {
  return { id, label, parent, phase, group: true, open: false, depth: 0, children: [], links: [], count: 0, repeat: 0 };
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
    leaves[index] = { id: `n:${index}`, index, label: model.label[index], parent, tags: [], depth: 0 };
    parent.children.push(leaves[index]);
  }
  if (!phased) hoist(root);
  for (const index of folded) for (const edge of model.users[index]) leaves[edge.to]?.tags.push(index);
  for (const leaf of leaves) if (leaf) leaf.tags = [...new Set(leaf.tags)];
  if (phased) root.children.sort((a, b) => a.phase - b.phase);
  squeeze(root);
  cutRuns(root);
  foldRepeats(root, model);
  countUp(root);
  const stubs = link(model, leaves, root);
  return { root, leaves, folded, stubs };
}

/** Parameters and constants with a reader in every graph they are in. Those that nobody reads stay visible. */
function foldable(model) {
  const folded = new Set();
  for (let index = 0; index < model.count; index++) {
    const kind = model.kind[index];
    if ((kind === 3 || kind === 5) && model.users[index].length && !model.inputs[index].length) folded.add(index);
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

/** A group that holds nothing but one group becomes one with it. */
function squeeze(box) {
  for (const child of box.children) if (child.group) squeeze(child);
  if (!box.parent) return;
  while (box.children.length === 1 && box.children[0].group) {
    const only = box.children[0];
    const told = only.label === box.label || only.label.startsWith(`${box.label}.`);
    box.label = told ? only.label : `${box.label}.${only.label}`;
    box.children = only.children;
    for (const child of box.children) child.parent = box;
  }
}

/** A long flat group is cut into runs in execution order, so that no layout is too large to read. */
function cutRuns(box) {
  for (const child of box.children) if (child.group) cutRuns(child);
  const loose = box.children.filter((child) => !child.group);
  if (loose.length <= 2 * RUN) return;
  const rest = box.children.filter((child) => child.group);
  for (let start = 0; start < loose.length; start += RUN) {
    const part = loose.slice(start, start + RUN);
    const run = group(`${box.id}#${start}`, `ops ${start + 1}–${start + part.length}`, box, box.phase);
    run.children = part;
    for (const leaf of part) leaf.parent = run;
    rest.push(run);
  }
  box.children = rest;
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
  for (const child of row) child.parent = made;
  return made;
}

/** Equal text for groups of equal structure: ops, shapes, inner edges in order; names do not count. */
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
    order.set(index, order.size);
    const inputs = model.inputs[index].map((edge) => (order.has(edge.from) ? order.get(edge.from) : "x"));
    parts.push(model.target[index], model.shape[index], model.dtype[index], model.first[index], model.last[index], inputs.join());
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
    if (!readers.has(key)) readers.set(key, new Set());
    readers.get(key).add(lifted[number][1]);
  });
  const stubs = [];
  const known = new Map();
  model.edges.forEach((edge, number) => {
    if (!lifted[number]) return;
    const [a, b] = lifted[number];
    const between = root.phased && a.parent === root;
    if (between || readers.get(`${edge.from}@${a.parent.id}`).size >= HUB) {
      stubs.push(number);
      return;
    }
    const key = `${a.id}>${b.id}`;
    if (!known.has(key)) {
      known.set(key, { from: a, to: b, edges: [] });
      a.parent.links.push(known.get(key));
    }
    known.get(key).edges.push(number);
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
