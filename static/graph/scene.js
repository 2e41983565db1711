// What there is to paint: visible items with absolute places, edges as curves, stubs, and what a step and a colouring make of them.
const version = new URL(import.meta.url).search;
const { shownFor } = await import(`./tree.js${version}`);

const INNER_ENDS = 3; // ends of an edge that are drawn through the border of an open group
const INNER_REACH = 260; // and how far: a longer one would cross what has nothing to do with it

/** Flat lists in paint order; places in the picture's own coordinates. */
export function makeScene(model, tree) {
  const scene = { model, items: [], edges: [], byId: new Map(), width: tree.root.width, height: tree.root.height };
  walk(tree.root, 0, 0, scene);
  for (const edge of scene.edges) edge.ends = innerEnds(edge, model, tree);
  scene.stubs = makeStubs(model, tree, scene);
  return scene;
}

function walk(box, left, top, scene) {
  for (const link of box.links) {
    const points = link.points.map(([x, y]) => [x + left, y + top]);
    scene.edges.push({ link, points, from: link.from, to: link.to, edges: link.edges });
  }
  for (const item of box.children) {
    item.left = left + item.x;
    item.top = top + item.y;
    scene.items.push(item);
    scene.byId.set(item.id, item);
    if (item.group && item.open) walk(item, item.left, item.top, scene);
  }
}

/** Where an edge goes inside an open group: without it, a node whose input comes from outside looks unconnected. */
function innerEnds(edge, model, tree) {
  const inner = (box, side) => {
    if (!box.group || !box.open) return [];
    const items = new Set(edge.edges.map((number) => shownFor(tree.leaves[model.edges[number][side]])));
    const [x, y] = edge.points[side === "from" ? 0 : edge.points.length - 1];
    const near = (item) => Math.hypot(item.left + item.width / 2 - x, (side === "from" ? item.top + item.height : item.top) - y) < INNER_REACH;
    return items.size <= INNER_ENDS ? [...items].filter(near) : [];
  };
  return { from: inner(edge.from, "from"), to: inner(edge.to, "to") };
}

/** Stubs between visible items, both ends knowing the other: `item.sends`, `item.takes`. */
function makeStubs(model, tree, scene) {
  for (const item of scene.items) Object.assign(item, { sends: [], takes: [] });
  const known = new Map();
  for (const number of tree.stubs) {
    const edge = model.edges[number];
    const [from, to] = [shownFor(tree.leaves[edge.from]), shownFor(tree.leaves[edge.to])];
    if (from === to) continue;
    const key = `${from.id}>${to.id}`;
    if (!known.has(key)) {
      const stub = { from, to, edges: [] };
      known.set(key, stub);
      from.sends.push(stub);
      to.takes.push(stub);
    }
    known.get(key).edges.push(number);
  }
  return [...known.values()];
}

/** An item's stubs of which something is in the graph that this side shows. */
export function liveStubs(model, stubs, step, side) {
  return stubs.filter((stub) => liveEdges(model, stub.edges, step, side).length);
}

/**
 * The labelled ends of an item's stubs, in its own coordinates: what comes from afar on the left above, what goes there on the right below.
 * An open group has none: its items do.
 */
export function stubMarks(item, context) {
  if (item.group && item.open) return [];
  const mark = (stubs, end) => {
    const text = stubs.length === 1 ? stubs[0][end].label : `${stubs.length} places`;
    const short = text.length > 18 ? `${text.slice(0, 17)}…` : text;
    const width = 16 + short.length * 5.6;
    const [x, y] = end === "from" ? [-4, -9] : [item.width + 4 - width, item.height - 4];
    return { end, stubs, x, y, width, height: 13, text: end === "from" ? `↘ ${short}` : `${short} ↗`, title: `${end === "from" ? "Reads" : "Feeds"} ${text}: click to go there` };
  };
  return [
    [context.stubs(item, "takes"), "from"],
    [context.stubs(item, "sends"), "to"],
  ]
    .filter(([stubs]) => stubs.length)
    .map(([stubs, end]) => mark(stubs, end));
}

// ---------------------------------------------------------------- what a step makes of it

const ORDER = ["added", "fused", "changed", "removed"];

/**
 * Status of every visible item at a step, seen from one side. A closed group counts what is inside;
 * an item that is in neither graph is absent.
 */
export function statuses(model, tree, scene, step, side) {
  const found = new Map();
  const count = (box) => {
    const sum = { added: 0, fused: 0, changed: 0, removed: 0, place: 0, alive: 0, ghost: 0 };
    for (const child of box.children) {
      if (child.group) {
        const inner = count(child);
        for (const name of Object.keys(sum)) sum[name] += inner[name];
        continue;
      }
      const status = model.status(child.index, step, side);
      const place = status !== "absent" && model.places.has(child.index);
      found.set(child, { status, place });
      if (status === "absent") continue;
      if (place) sum.place += 1;
      if (status !== "kept") sum[status] += 1;
      if (status === "removed" && side === "after") sum.ghost += 1;
      else sum.alive += 1;
    }
    if (sum.ghost) cover(box, found);
    const marks = ORDER.filter((name) => sum[name]).map((name) => [name, sum[name]]);
    if (sum.place) marks.push(["place", sum.place]);
    found.set(box, { status: sum.alive ? "kept" : sum.ghost ? "removed" : "absent", marks, alive: sum.alive });
    return sum;
  };
  count(tree.root);
  return found;
}

/** What went away and stands where something new does now would make both unreadable: it is noted as covered. */
function cover(box, found) {
  const [gone, here] = [[], []];
  for (const child of box.children) {
    const known = found.get(child);
    if (known.status === "removed") gone.push(child);
    else if (known.status !== "absent") here.push(child);
  }
  const touch = (a, b) => a.left < b.left + b.width && b.left < a.left + a.width && a.top < b.top + b.height && b.top < a.top + a.height;
  const hide = (item) => {
    found.get(item).covered = true;
    if (item.group && item.open) item.children.forEach(hide);
  };
  for (const child of gone) if (here.some((other) => touch(child, other))) hide(child);
}

/** Groups with something marked inside: those that deserve to be open at first. */
export function markedGroups(model, tree, step, side) {
  const marked = new Set();
  for (const leaf of tree.leaves) {
    if (!leaf) continue;
    const status = model.status(leaf.index, step, side);
    const plain = status === "kept" || status === "absent";
    if (plain && !(model.places.has(leaf.index) && status !== "absent")) continue;
    for (let box = leaf.parent; box && !marked.has(box); box = box.parent) marked.add(box);
  }
  return marked;
}

/** Is an edge (or any of several) in the graph that this side of the step shows? */
export function liveEdges(model, numbers, step, side) {
  const at = side === "before" ? step - 1 : step;
  return numbers.filter((number) => model.edges[number].first <= at && at <= model.edges[number].last);
}

/** `3 tensors, 1.2 MiB` with their names. */
export function edgeText(model, numbers) {
  const tensors = [...new Set(numbers.map((number) => model.edges[number].from))];
  const bytes = tensors.reduce((sum, index) => sum + (model.values.bytes[index] || 0), 0);
  const lines = tensors.slice(0, 8).map((index) => `${model.title(index)}  ${model.dtype[index]} ${model.shape[index]}`);
  if (tensors.length > 8) lines.push(`and ${tensors.length - 8} more`);
  const reads = numbers.length > tensors.length ? `, read ${numbers.length} times` : "";
  return `${tensors.length} ${tensors.length === 1 ? "tensor" : "tensors"}, ${sizeText(bytes)}${reads}\n${lines.join("\n")}`;
}

export function edgeBytes(model, numbers) {
  return [...new Set(numbers.map((number) => model.edges[number].from))].reduce((sum, index) => sum + (model.values.bytes[index] || 0), 0);
}

export function sizeText(count) {
  let value = count;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return unit === "B" ? `${value} B` : `${value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} TiB`;
}
