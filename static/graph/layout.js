// Where everything is drawn: each open group is laid out alone by dagre, inner groups first; equal groups share one layout.
const { Graph, layout } = await import(`./dagre.esm.js${new URL(import.meta.url).search}`);

const HEADER = 28;
const PAD = 12;
const LANE_GAP = 72;

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
  const shape = model.shape[item.index] ? `${model.dtype[item.index]} ${model.shape[item.index]}` : "";
  const tags = item.tags.length ? textWidth(tagText(item, model), 10) + 12 : 0;
  item.width = Math.min(220, Math.max(84, textWidth(item.label, 12.5) + 26, textWidth(shape, 10.5) + 26, tags));
  item.height = (shape ? 40 : 28) + (tags ? 15 : 0);
}

/** The folded parameters of an op: `weight, bias`. */
export function tagText(item, model) {
  const names = item.tags.map((index) => model.label[index]);
  return names.length > 2 ? `${names[0]}, ${names[1]} +${names.length - 2}` : names.join(", ");
}

/** Lays out a group and the open ones inside it. Yields after each group, so that a caller can stop or breathe. */
export function* place(box, model, memo) {
  for (const child of box.children) {
    if (child.group && child.open) yield* place(child, model, memo);
    else measure(child, model);
  }
  const order = new Map(box.children.map((child, index) => [child, index]));
  const pairs = box.links.map((link) => [order.get(link.from), order.get(link.to)]);
  const sizes = box.children.map((child) => [Math.round(child.width), Math.round(child.height)]);
  const key = JSON.stringify([Boolean(box.phased), sizes, pairs]);
  if (!memo.has(key)) {
    memo.set(key, box.phased ? lanes(sizes) : arrange(sizes, pairs));
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

/** Boxes by their edges; boxes without any stand in rows below. */
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
