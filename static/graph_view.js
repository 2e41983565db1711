// The graph view: draws the tree of graph_layout.js, and turns clicks, wheel and keys into opening, moving and selecting.
// Data: see pages/ui/graph_view/__init__.py. Names are user data: they reach the page by textContent only.

// The same version as this file's own, so that a browser never mixes two.
const { buildTree, openAtFirst, place } = await import(new URL(`./graph_layout.js${new URL(import.meta.url).search}`, import.meta.url));

const MARKS = { 1: "added", 2: "removed", 3: "changed", 4: "place" };
const GLYPHS = { 1: "+", 2: "−", 3: "~", 4: "◆" };
const KINDS = ["op", "matmul", "view", "parameter", "input", "constant"];

const views = new WeakMap();
const panes = new Map();
const pending = new Map();
const answered = new Map();

/** Called by Streamlit's component at mount and whenever its data or the theme changes. */
export function show({ parentElement, data, setStateValue }) {
  let view = views.get(parentElement);
  if (!view) views.set(parentElement, (view = new View(parentElement.querySelector(".graph-view"))));
  view.answer = (name) => setStateValue("selected", name);
  panes.set(data.pane, view);
  if (view.digest !== data.digest) view.load(data);
  if (pending.has(data.pane)) {
    view.reveal(pending.get(data.pane));
    pending.delete(data.pane);
  }
}

/** Shows a node that was chosen elsewhere on the page; `turn` tells a new wish from an old one. */
export function focus({ data }) {
  if (!data.name || answered.get(data.pane) === data.turn) return;
  answered.set(data.pane, data.turn);
  const view = panes.get(data.pane);
  if (view && view.frame.isConnected) view.reveal(data.name);
  else pending.set(data.pane, data.name);
}

// ---------------------------------------------------------------- the picture

const SVG = "http://www.w3.org/2000/svg";

function draw(parent, tag, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  parent.append(element);
  return element;
}

const clip = (text, width, size) => {
  const room = Math.floor(width / (size * 0.58));
  return text.length > room ? `${text.slice(0, Math.max(1, room - 1))}…` : text;
};

function curve(points) {
  const [first, ...rest] = points;
  let path = `M${first[0]},${first[1]}`;
  for (let i = 0; i < rest.length - 1; i++) {
    const [x, y] = rest[i];
    const end = i === rest.length - 2 ? rest[i + 1] : [(x + rest[i + 1][0]) / 2, (y + rest[i + 1][1]) / 2];
    path += `Q${x},${y} ${end[0]},${end[1]}`;
  }
  return rest.length === 1 ? `${path}L${rest[0][0]},${rest[0][1]}` : path;
}

function paintEdges(layer, group) {
  for (const edge of group.links.values()) {
    const width = Math.min(4, 1.1 + Math.log2(edge.count) * 0.45);
    const path = draw(layer, "path", { class: "edge", d: curve(edge.points), "stroke-width": width, "marker-end": "url(#arrow)" });
    draw(path, "title", {}, `${edge.count} ${edge.count === 1 ? "tensor" : "tensors"}`);
    if (edge.count < 4) continue;
    const [x, y] = edge.points[Math.floor((edge.points.length - 1) / 2)];
    const [u, v] = edge.points[Math.floor(edge.points.length / 2)];
    draw(layer, "text", { class: "count", x: (x + u) / 2 + 4, y: (y + v) / 2 - 3 }, `${edge.count}`);
  }
}

function paintLeaf(layer, leaf) {
  const { width, height } = leaf;
  draw(layer, "rect", { class: "box", width, height, rx: leaf.kind >= 3 ? height / 2 : 5 });
  if (leaf.mark) draw(layer, "rect", { class: "hatch", width, height, rx: leaf.kind >= 3 ? height / 2 : 5 });
  const middle = width / 2;
  draw(layer, "text", { class: "label", x: middle, y: leaf.shape ? 17 : 18 }, clip(leaf.label, width - 14, 12.5));
  if (leaf.shape) draw(layer, "text", { class: "shape", x: middle, y: 31 }, clip(leaf.shape, width - 8, 10.5));
  if (leaf.mark) badge(layer, leaf.mark, GLYPHS[leaf.mark], width - 2, 0);
  if (leaf.isOutput) draw(layer, "path", { class: "out", d: `M${middle - 5},${height + 2}h10l-5,6z` });
}

function badge(layer, mark, text, x, y) {
  const width = 10 + 7 * text.length;
  const holder = draw(layer, "g", { class: `badge ${MARKS[mark]}`, transform: `translate(${x - width},${y - 8})` });
  draw(holder, "rect", { width, height: 16, rx: 8 });
  draw(holder, "text", { x: width / 2, y: 12 }, text);
  return width;
}

function paintGroup(layer, group) {
  const { width, height } = group;
  if (!group.open) draw(layer, "rect", { class: "under", x: 4, y: 4, width, height, rx: 7 });
  draw(layer, "rect", { class: "box", width, height, rx: 7 });
  const button = draw(layer, "g", { class: "toggle", transform: "translate(8,7)" });
  draw(button, "rect", { width: 15, height: 15, rx: 3 });
  draw(button, "path", { d: group.open ? "M4,7.5h7" : "M4,7.5h7M7.5,4v7" });
  draw(button, "title", {}, group.open ? "Close this group" : "Open this group");
  const room = width - 40 - (group.marked && group.open ? 70 : 0);
  draw(layer, "text", { class: "name", x: 30, y: 19 }, clip(group.label, room, 13));
  if (!group.open) draw(layer, "text", { class: "shape", x: 30, y: 36 }, `${group.count} ${group.count === 1 ? "op" : "ops"}`);
  let x = width - 6;
  for (const mark of [4, 3, 2, 1]) {
    if (group.marks[mark]) x -= badge(layer, mark, `${GLYPHS[mark]}${group.marks[mark]}`, x, group.open ? 14 : 34) + 3;
  }
}

const TOOLS = [
  ["Fit", "Show everything that is open", (view) => view.fit(0.05)],
  ["+", "Larger", (view) => view.zoom(1.25)],
  ["−", "Smaller", (view) => view.zoom(0.8)],
  ["Reset", "Open and close groups as at first", (view) => view.load(view.data)],
];

class View {
  constructor(frame) {
    this.frame = frame;
    this.at = { x: 0, y: 0, scale: 1 };
    const bar = document.createElement("div");
    bar.className = "tools";
    for (const [label, title, act] of TOOLS) {
      const button = document.createElement("button");
      Object.assign(button, { textContent: label, title, type: "button", onclick: () => act(this) });
      button.setAttribute("aria-label", title);
      bar.append(button);
    }
    this.status = document.createElement("div");
    this.status.className = "status";
    this.status.setAttribute("aria-live", "polite");
    this.svg = draw(frame, "svg", { tabindex: 0, role: "application" });
    this.svg.setAttribute("aria-label", "Graph. Arrow keys move, Enter opens a group, plus and minus zoom, F fits. The table below lists the same nodes.");
    frame.append(bar, this.status);
    this.listen();
  }

  load(data) {
    this.data = data;
    this.digest = data.digest;
    this.frame.style.height = `${data.height}px`;
    this.memo = new Map();
    Object.assign(this, buildTree(data));
    this.byName = new Map(this.leaves.map((leaf) => [leaf.name, leaf]));
    this.selected = null;
    openAtFirst(this.root);
    this.arrangeAll();
    this.firstLook();
  }

  /** Everything if it can be read; else the changes of the first phase that has any, or the top. */
  firstLook() {
    this.fit(0.5);
    const [width, height] = [this.svg.clientWidth, this.svg.clientHeight];
    const hidden = this.root.height * this.at.scale > height || this.root.width * this.at.scale > width;
    const marked = this.items.filter((item) => item.mark || (item.marked && !item.open));
    if (marked.length && hidden) {
      const phase = (item) => (item.parent === this.root ? item : phase(item.parent));
      this.frameOn(marked.filter((item) => phase(item) === phase(marked[0])));
    }
    if (!width) new ResizeObserver((_, watch) => this.svg.clientWidth && (watch.disconnect(), this.firstLook())).observe(this.svg);
  }

  /** Brings items into view, readable: their top when not all of them fit. */
  frameOn(items) {
    const [width, height] = [this.svg.clientWidth, this.svg.clientHeight];
    const [left, top] = [Math.min(...items.map((item) => item.left)), Math.min(...items.map((item) => item.top))];
    const wide = Math.max(...items.map((item) => item.left + item.width)) - left;
    const high = Math.max(...items.map((item) => item.top + item.height)) - top;
    const scale = Math.max(0.6, Math.min(1, (width - 40) / wide, (height - 110) / high));
    this.at = { scale, x: width / 2 - (left + wide / 2) * scale, y: Math.max(60, (height - high * scale) / 2) - top * scale };
    this.move();
  }

  arrangeAll() {
    place(this.root, this.memo);
    this.items = [];
    this.shapes = new Map();
    this.svg.replaceChildren();
    const defs = draw(this.svg, "defs");
    for (const id of ["arrow", "arrow-strong"]) {
      const marker = draw(defs, "marker", { id, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto", markerUnits: "userSpaceOnUse" });
      draw(marker, "path", { d: "M0,0L8,4L0,8z", class: id });
    }
    const hatch = draw(defs, "pattern", { id: "stripes", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
    draw(hatch, "rect", { width: 2, height: 6, class: "stripe" });
    this.world = draw(this.svg, "g");
    this.paint(this.world, this.root, 0, 0);
    this.overlay = draw(this.world, "g", { class: "overlay" });
    this.move();
    this.mark();
  }

  paint(layer, group, left, top) {
    paintEdges(layer, group);
    for (const item of group.children) {
      Object.assign(item, { left: left + item.x, top: top + item.y });
      const kind = item.group ? (item.open ? "group open" : "group") : `leaf ${KINDS[item.kind]} ${MARKS[item.mark] || ""}`;
      const holder = draw(layer, "g", { class: kind, transform: `translate(${item.x},${item.y})` });
      holder.dataset.id = item.id;
      this.items.push(item);
      this.shapes.set(item.id, holder);
      if (item.group) paintGroup(holder, item);
      else paintLeaf(holder, item);
      draw(holder, "title", {}, item.group ? `${item.label}: ${item.count} ops` : `${item.name}\n${item.label} ${item.shape}`);
      if (item.group && item.open) this.paint(holder, item, item.left, item.top);
    }
  }

  move() {
    const { x, y, scale } = this.at;
    this.world.setAttribute("transform", `translate(${x},${y}) scale(${scale})`);
  }

  fit(smallest) {
    const [width, height] = [this.svg.clientWidth, this.svg.clientHeight];
    const scale = Math.max(smallest, Math.min(1.1, (width - 24) / this.root.width, (height - 24) / this.root.height));
    const x = (width - this.root.width * scale) / 2;
    this.at = { scale, x: this.root.width * scale > width ? 12 : x, y: Math.max(8, (height - this.root.height * scale) / 2) };
    this.move();
  }

  zoom(factor, x = this.svg.clientWidth / 2, y = this.svg.clientHeight / 2) {
    const scale = Math.min(3, Math.max(0.04, this.at.scale * factor));
    const grown = scale / this.at.scale;
    this.at = { scale, x: x - (x - this.at.x) * grown, y: y - (y - this.at.y) * grown };
    this.move();
  }

  centre(item, scale = Math.max(this.at.scale, 0.8)) {
    this.at = {
      scale,
      x: this.svg.clientWidth / 2 - (item.left + item.width / 2) * scale,
      y: this.svg.clientHeight / 2 - (item.top + Math.min(item.height, 200) / 2) * scale,
    };
    this.move();
  }

  /** Opens or closes a group; its corner stays where it is on the screen. */
  toggle(group) {
    const { left, top } = group;
    group.open = !group.open;
    this.arrangeAll();
    this.at.x += (left - group.left) * this.at.scale;
    this.at.y += (top - group.top) * this.at.scale;
    this.move();
  }

  /** Opens what hides a node, selects it and brings it to the middle. */
  reveal(name) {
    const leaf = this.byName?.get(name);
    if (!leaf) return;
    for (let group = leaf.parent; group; group = group.parent) group.open = true;
    this.selected = leaf;
    this.arrangeAll();
    this.centre(leaf);
  }

  select(item) {
    this.selected = item;
    this.mark();
    if (item && !item.group) this.answer(item.name);
  }

  /** The item that stands for a node: itself, or the closed group that hides it. */
  visible(leaf) {
    let shown = leaf;
    for (let group = leaf.parent; group; group = group.parent) if (!group.open) shown = group;
    return shown;
  }

  mark() {
    for (const element of this.svg.querySelectorAll(".selected, .near")) element.classList.remove("selected", "near");
    this.overlay.replaceChildren();
    const chosen = this.selected;
    const shown = `${this.items.length.toLocaleString("en")} items shown of ${this.leaves.length.toLocaleString("en")} nodes`;
    this.status.textContent = chosen ? `${chosen.name || chosen.label} selected · ${shown}` : shown;
    if (!chosen) return;
    const self = chosen.group ? chosen : this.visible(chosen);
    this.shapes.get(self.id)?.classList.add("selected");
    if (self.group && self.open) return;
    const inside = chosen.group ? this.leaves.filter((leaf) => this.visible(leaf) === chosen) : [chosen];
    const within = new Set(inside.map((leaf) => leaf.index));
    const reach = (side) => new Set(inside.flatMap((leaf) => leaf[side]).filter((i) => !within.has(i)).map((i) => this.visible(this.leaves[i])));
    for (const item of [...reach("inputs")].slice(0, 60)) this.strong(item, self, "reads");
    for (const item of [...reach("users")].slice(0, 60)) this.strong(self, item, "feeds");
  }

  strong(from, to, way) {
    if (from === to) return;
    const start = [from.left + from.width / 2, from.top + from.height];
    const end = [to.left + to.width / 2, to.top];
    const bend = Math.max(24, Math.min(160, Math.abs(end[1] - start[1]) / 2));
    const d = `M${start}C${start[0]},${start[1] + bend} ${end[0]},${end[1] - bend} ${end}`;
    draw(this.overlay, "path", { class: `strong ${way}`, d, "marker-end": "url(#arrow-strong)" });
    this.shapes.get((way === "reads" ? from : to).id)?.classList.add("near");
  }

  itemAt(target) {
    const holder = target.closest?.("[data-id]");
    return holder && this.items.find((item) => item.id === holder.dataset.id);
  }

  listen() {
    let drag = null;
    this.svg.addEventListener("pointerdown", (event) => (drag = { x: event.clientX, y: event.clientY, moved: false }));
    this.svg.addEventListener("pointermove", (event) => {
      if (!drag || !event.buttons) return;
      const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
      if (!drag.moved && Math.hypot(dx, dy) < 4) return;
      if (!drag.moved) this.svg.setPointerCapture(event.pointerId);
      Object.assign(drag, { x: event.clientX, y: event.clientY, moved: true });
      this.at.x += dx;
      this.at.y += dy;
      this.move();
    });
    this.svg.addEventListener("click", (event) => {
      const moved = drag?.moved;
      drag = null;
      if (moved) return;
      const item = this.itemAt(event.target);
      if (item?.group && event.target.closest(".toggle")) this.toggle(item);
      else this.select(item || null);
    });
    this.svg.addEventListener("dblclick", (event) => {
      const item = this.itemAt(event.target);
      if (item?.group && !event.target.closest(".toggle")) this.toggle(item);
    });
    this.svg.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  wheel(event) {
    event.preventDefault();
    const box = this.svg.getBoundingClientRect();
    this.zoom(Math.exp(-event.deltaY * 0.0015), event.clientX - box.left, event.clientY - box.top);
  }

  key(event) {
    const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    if (ways[event.key]) this.step(...ways[event.key]);
    else if (event.key === "Enter" && this.selected?.group) this.toggle(this.selected);
    else if (event.key === "+" || event.key === "=") this.zoom(1.25);
    else if (event.key === "-") this.zoom(0.8);
    else if (event.key === "f") this.fit(0.05);
    else return;
    event.preventDefault();
  }

  /** Selects the nearest visible item in a direction. */
  step(dx, dy) {
    const middle = (item) => [item.left + item.width / 2, item.top + (item.open ? 10 : item.height / 2)];
    const here = this.selected && (this.selected.group ? this.selected : this.visible(this.selected));
    if (!here) return this.select(this.items[0]);
    const [x, y] = middle(here);
    let [best, least] = [null, Infinity];
    for (const item of this.items) {
      const [u, v] = middle(item);
      const ahead = (u - x) * dx + (v - y) * dy;
      const aside = Math.abs((u - x) * dy) + Math.abs((v - y) * dx);
      if (item !== here && ahead > 2 && ahead + 2.5 * aside < least) [best, least] = [item, ahead + 2.5 * aside];
    }
    if (!best) return undefined;
    this.select(best);
    return this.centre(best, this.at.scale);
  }
}
