// Where everything is drawn: each open group is laid out alone by dagre, inner groups first; equal groups share one layout.
const { Graph, layout } = await import(`./dagre.esm.js${new URL(import.meta.url).search}`);

const HEADER = 28;
const PAD = 12;
const LANE_GAP = 72;
const GAP = 6; // between a late box and its neighbours
const REACH = 22; // rings around the best place in which a gap is looked for

export const textWidth = (text, size) => text.length * size * 0.58;

/** Sizes depend on the union of all steps only, never on what a step marked: so nothing moves from step to step. */
function measure(item, model) {
  if (item.group) {
    const label = textWidth(item.label, 13) + (item.repeat ? 74 : 54);
    const badges = model.steps.length > 1 ? 210 : 132; // room for what a step marks inside
    item.width = Math.min(280, Math.max(badges, label));
    item.height = 46;
    return;
  }
  const lines = model.lines(item.index);
  const [label, shape] = [0, 1].map((line) => lines.map((texts) => texts[line]).reduce((a, b) => (b.length > a.length ? b : a)));
  const tags = item.tagRow.length ? textWidth(namesOf(item.tagRow, model), 10) + 12 : 0;
  item.width = Math.min(220, Math.max(84, textWidth(label, 12.5) + 26, textWidth(shape, 10.5) + 26, tags));
  item.height = (shape ? 40 : 28) + (tags ? 15 : 0);
}

/** The folded parameters of an op in one graph: `weight, bias`; empty where its box has no room for them. */
export function tagText(item, model, at) {
  return item.tagRow.length ? namesOf(item.tags.filter((index) => model.alive(index, at)), model) : ""; // prettier-ignore
}

function namesOf(indexes, model) {
  const names = indexes.map((index) => model.label[index]);
  return names.length > 2 ? `${names[0]}, ${names[1]} +${names.length - 2}` : names.join(", ");
}

/** Lays out a group and the open ones inside it. Yields after each group, so that a caller can stop or breathe. */
export function* place(box, model, memo) {
  for (const child of box.children) {
    if (child.group && child.open) yield* place(child, model, memo);
    else measure(child, model);
  }
  const order = new Map(box.children.map((child, index) => [child, index]));
  const pairs = box.links.map((link) => [order.get(link.from), order.get(link.to), link.first]);
  const sizes = box.children.map((child) => [Math.round(child.width), Math.round(child.height)]);
  const lives = box.children.map((child) => [child.first, child.last]);
  const key = JSON.stringify([Boolean(box.phased), sizes, lives, pairs]);
  if (!memo.has(key)) {
    memo.set(key, box.phased ? lanes(sizes) : arrange(sizes, lives, pairs));
    yield;
  }
  const found = memo.get(key);
  const top = box.parent ? HEADER + 6 : PAD;
  box.children.forEach((child, index) => {
    child.x = found.places[index][0] + PAD;
    child.y = found.places[index][1] + top;
  });
  box.links.forEach((link, index) => {
    link.points = found.curves[index].map(([x, y]) => [x + PAD, y + top]);
  });
  box.width = Math.max(found.width + 2 * PAD, textWidth(box.label, 13) + (box.repeat ? 92 : 60));
  box.height = found.height + top + PAD;
}

export function placeAll(root, model, memo) {
  for (const _ of place(root, model, memo));
}

/**
 * Boxes by their edges, as they stand in the first graph that has any of them. What later steps bring finds a place among them, best where
 * something went away; so a pipeline that grows by a step moves nothing that was there.
 */
function arrange(sizes, lives, pairs) {
  const start = Math.min(...lives.map(([first]) => first));
  const early = (index) => lives[index][0] === start;
  const kept = pairs.map(([from, to, first]) => first === start && early(from) && early(to));
  const graph = new Graph({ multigraph: true });
  graph.setGraph({ rankdir: "TB", nodesep: 16, ranksep: 26, edgesep: 8, marginx: 0, marginy: 0 });
  graph.setDefaultEdgeLabel(() => ({}));
  const joined = new Set(pairs.filter((_, number) => kept[number]).flatMap(([from, to]) => [from, to]));
  for (const index of joined) graph.setNode(String(index), { width: sizes[index][0], height: sizes[index][1] });
  pairs.forEach(([from, to], number) => kept[number] && graph.setEdge(String(from), String(to), {}, String(number)));
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
  const found = { places, width, height };
  rows(found, sizes, (index) => joined.has(index) || !early(index));
  const late = sizes.map((_, index) => index).filter((index) => !early(index));
  late.sort((a, b) => lives[a][0] - lives[b][0] || a - b);
  const placed = new Set(sizes.map((_, index) => index).filter(early));
  for (const index of late) {
    found.places[index] = spot(index, found, sizes, lives, pairs, placed);
    placed.add(index);
    found.width = Math.max(found.width, found.places[index][0] + sizes[index][0]);
    found.height = Math.max(found.height, found.places[index][1] + sizes[index][1]);
  }
  found.curves = pairs.map(([from, to], number) => {
    if (kept[number]) return graph.edge({ v: String(from), w: String(to), name: String(number) }).points.map(({ x, y }) => [x, y]);
    return direct(found.places[from], sizes[from], found.places[to], sizes[to]);
  });
  return found;
}

/** A free place for a late box: near what it reads and feeds, first where boxes are gone by then, then in gaps, last below all. */
function spot(index, found, sizes, lives, pairs, placed) {
  const [width, height] = sizes[index];
  const free = ([x, y]) => {
    if (x < 0 || y < 0) return false;
    for (const other of placed) {
      if (lives[other][1] < lives[index][0] || lives[other][0] > lives[index][1]) continue; // never in one graph
      const [u, v] = found.places[other];
      if (x < u + sizes[other][0] + GAP && u < x + width + GAP && y < v + sizes[other][1] + GAP && v < y + height + GAP) return false;
    }
    return true;
  };
  const near = pairs.filter(([from, to]) => (from === index && placed.has(to)) || (to === index && placed.has(from)));
  const anchors = near.map(([from, to]) => (from === index ? to : from)).map((other) => [found.places[other][0] + sizes[other][0] / 2, found.places[other][1] + sizes[other][1] / 2]);
  const middle = (axis) => anchors.reduce((sum, anchor) => sum + anchor[axis], 0) / anchors.length;
  const goal = anchors.length ? [middle(0) - width / 2, middle(1) - height / 2] : [0, found.height];
  const readEnd = Math.max(0, ...near.filter(([, to]) => to === index).map(([from]) => found.places[from][1] + sizes[from][1]));
  const feedStart = Math.min(Infinity, ...near.filter(([from]) => from === index).map(([, to]) => found.places[to][1]));
  const against = ([, y]) => Math.max(0, readEnd - y) + Math.max(0, y + height - feedStart); // data flows downwards
  const distance = ([x, y]) => Math.hypot(x - goal[0], y - goal[1]) + 4 * against([x, y]);
  const vacant = [...placed].filter((other) => lives[other][1] < lives[index][0]).map((other) => {
    const [u, v] = found.places[other];
    return [Math.max(0, Math.min(u + (sizes[other][0] - width) / 2, found.width - width)), v];
  }); // prettier-ignore
  const gaps = [];
  for (let ring = 0; ring <= REACH; ring++)
    for (let dx = -ring; dx <= ring; dx++)
      for (const dy of Math.abs(dx) === ring ? [...Array(2 * ring + 1).keys()].map((i) => i - ring) : [-ring, ring]) gaps.push([goal[0] + dx * 26, goal[1] + dy * 16]);
  const inside = ([x, y]) => x + width <= found.width && y + height <= found.height;
  const nearest = (spots) => spots.filter(free).sort((a, b) => distance(a) - distance(b))[0];
  return nearest(vacant) || nearest(gaps.filter(inside)) || nearest([[Math.max(0, goal[0]), found.height + GAP]]) || [0, found.height + 2 * GAP];
}

/** A curve from one box down to another, or around the side when it leads up. */
function direct([x, y], [width, height], [u, v], [wide]) {
  const [start, end] = [[x + width / 2, y + height], [u + wide / 2, v]]; // prettier-ignore
  if (end[1] > start[1]) return [start, [start[0], (start[1] + end[1]) / 2], [end[0], (start[1] + end[1]) / 2], end];
  const side = Math.max(x + width, u + wide) + 18;
  return [start, [start[0], start[1] + 16], [side, start[1] + 16], [side, end[1] - 16], [end[0], end[1] - 16], end];
}

/** Boxes without edges stand in rows below. */
function rows(found, sizes, skip) {
  const limit = Math.max(found.width, 520);
  let [x, y, tallest] = [0, found.height ? found.height + 22 : 0, 0];
  sizes.forEach((size, index) => {
    if (skip(index)) return;
    if (x && x + size[0] > limit) [x, y, tallest] = [0, y + tallest + 14, 0];
    found.places[index] = [x, y];
    x += size[0] + 14;
    tallest = Math.max(tallest, size[1]);
    found.width = Math.max(found.width, x - 14);
    found.height = Math.max(found.height, y + tallest);
  });
}

/** Phases stand side by side in their order, heads in line. */
function lanes(sizes) {
  let x = 0;
  const places = sizes.map(([width]) => {
    const at = [x, 0];
    x += width + LANE_GAP;
    return at;
  });
  return { places, curves: [], width: x - LANE_GAP, height: Math.max(...sizes.map((size) => size[1]), 0) };
}

// ---------------------------------------------------------------- across threads

function* visible(box) {
  yield box;
  for (const child of box.children) {
    if (child.group && child.open) yield* visible(child);
    else yield child;
  }
}

/** The layout of a tree as flat numbers, in the order of its visible items. */
export function pack(root) {
  const [boxes, points, counts] = [[], [], []];
  for (const item of visible(root)) {
    boxes.push(item.x ?? 0, item.y ?? 0, item.width, item.height);
    if (!item.group || !item.open) continue;
    for (const link of item.links) {
      counts.push(link.points.length);
      for (const [x, y] of link.points) points.push(x, y);
    }
  }
  return { boxes: Float32Array.from(boxes), points: Float32Array.from(points), counts: Int32Array.from(counts) };
}

/** Puts packed numbers into an equal tree with the same groups open. */
export function unpack(root, packed) {
  let [box, count, point] = [0, 0, 0];
  for (const item of visible(root)) {
    [item.x, item.y, item.width, item.height] = packed.boxes.subarray(box, (box += 4));
    if (!item.group || !item.open) continue;
    for (const link of item.links) {
      link.points = [];
      for (let i = packed.counts[count++]; i > 0; i--) link.points.push([packed.points[point++], packed.points[point++]]);
    }
  }
}
