// The painter for up to some 1,500 items: SVG elements that are kept and moved, so that what stays is seen to stay.
// Names are user data: they reach the page by textContent only.
const version = new URL(import.meta.url).search;
const { KINDS } = await import(`./model.js${version}`);
const { tagText } = await import(`./layout.js${version}`);
const { edgeText, stubMarks } = await import(`./scene.js${version}`);

const SVG = "http://www.w3.org/2000/svg";
export const GLYPHS = { added: "+", removed: "−", changed: "~", fused: "⊕", place: "◆" };

export function draw(parent, tag, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  parent.append(element);
  return element;
}

export const clip = (text, width, size) => {
  const room = Math.floor(width / (size * 0.58));
  return text.length > room ? `${text.slice(0, Math.max(1, room - 1))}…` : text;
};

/** Points -> a smooth path through the middles. */
export function curve(points) {
  const [first, ...rest] = points;
  let path = `M${first[0]},${first[1]}`;
  if (rest.length === 1) return `${path}L${rest[0][0]},${rest[0][1]}`;
  for (let i = 0; i < rest.length - 1; i++) {
    const [x, y] = rest[i];
    const end = i === rest.length - 2 ? rest[i + 1] : [(x + rest[i + 1][0]) / 2, (y + rest[i + 1][1]) / 2];
    path += `Q${x},${y} ${end[0]},${end[1]}`;
  }
  return path;
}

const bend = ([x, y], [u, v]) => {
  const dip = Math.max(14, Math.min(160, Math.abs(v - y) / 2));
  return `M${x},${y}C${x},${y + dip} ${u},${v - dip} ${u},${v}`;
};
export const below = (item) => [item.left + item.width / 2, item.top + item.height];
export const above = (item) => [item.left + item.width / 2, item.top];

export class SvgPainter {
  constructor(svg) {
    this.svg = svg;
    const defs = draw(svg, "defs");
    this.prefix = `g${Math.random().toString(36).slice(2, 8)}`; // ids of several panes on one page must differ
    for (const name of ["arrow", "strong"]) {
      const marker = draw(defs, "marker", { id: `${this.prefix}${name}`, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto", markerUnits: "userSpaceOnUse" });
      draw(marker, "path", { d: "M0,0L8,4L0,8z", class: `head ${name}` });
    }
    const stripes = draw(defs, "pattern", { id: `${this.prefix}stripes`, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
    draw(stripes, "rect", { width: 2, height: 6, class: "stripe" });
    this.world = draw(svg, "g", { class: "world" });
    [this.boxes, this.lines, this.things, this.overlay] = ["boxes", "lines", "things", "overlay"].map((name) => draw(this.world, "g", { class: name }));
    this.shapes = new Map();
    this.paths = new Map();
  }

  clear() {
    for (const layer of [this.boxes, this.lines, this.things, this.overlay]) layer.replaceChildren();
    this.shapes.clear();
    this.paths.clear();
  }

  camera({ x, y, scale }) {
    this.world.setAttribute("transform", `translate(${x},${y}) scale(${scale})`);
  }

  paint(scene, context) {
    this.keep(this.shapes, scene.items, (item) => item.id, (item) => this.place(item, context));
    this.keep(this.paths, scene.edges, (edge) => `${edge.from.id}>${edge.to.id}`, (edge, known) => this.line(edge, context, known));
    this.restyle(scene, context);
  }

  keep(known, wanted, idOf, make) {
    const ids = new Set(wanted.map(idOf));
    for (const [id, element] of known)
      if (!ids.has(id)) {
        element.remove();
        known.delete(id);
      }
    for (const one of wanted) known.set(idOf(one), make(one, known.get(idOf(one))));
  }

  place(item, context) {
    const layer = item.group && item.open ? this.boxes : this.things;
    const key = contentKey(item, context);
    let holder = this.shapes.get(item.id);
    if (!holder || holder.contentKey !== key) {
      holder?.remove();
      holder = draw(layer, "g");
      holder.contentKey = key;
      holder.dataset.id = item.id;
      if (item.group) this.group(holder, item, context);
      else this.leaf(holder, item, context);
    } else layer.append(holder); // keeps paint order: outer boxes first
    holder.style.transform = `translate(${item.left}px,${item.top}px)`;
    return holder;
  }

  line(edge, context, known) {
    const path = known || draw(this.lines, "g", { class: "link" });
    const d = [
      curve(edge.points),
      ...edge.ends.from.map((item) => bend(below(item), edge.points[0])),
      ...edge.ends.to.map((item) => bend(edge.points[edge.points.length - 1], above(item))),
    ].join("");
    path.replaceChildren();
    draw(path, "path", { class: "edge", d, "stroke-width": context.edgeWidth(edge.edges), "marker-end": `url(#${this.prefix}arrow)` });
    draw(path, "title", {}, edgeText(context.model, edge.edges));
    if (edge.edges.length > 3) {
      const middle = edge.points[Math.floor(edge.points.length / 2)];
      draw(path, "text", { class: "count", x: middle[0] + 5, y: middle[1] - 3 }, `${edge.edges.length}`);
    }
    return path;
  }

  leaf(holder, item, context) {
    const { model } = context;
    const { width, height } = item;
    const round = model.kind[item.index] >= 3 ? Math.min(height, 40) / 2 : 5;
    const shape = model.typeText(item.index);
    draw(holder, "rect", { class: "box", width, height, rx: round });
    draw(holder, "rect", { class: "hatch", width, height, rx: round, fill: `url(#${this.prefix}stripes)` });
    draw(holder, "rect", { class: "inner", x: 3, y: 3, width: width - 6, height: height - 6, rx: Math.max(1, round - 3) });
    draw(holder, "text", { class: "label", x: width / 2, y: shape ? 17 : 18 }, clip(model.label[item.index], width - 14, 12.5));
    if (shape) draw(holder, "text", { class: "shape", x: width / 2, y: 31 }, clip(shape, width - 8, 10.5));
    if (item.tags.length) draw(holder, "text", { class: "tags", x: width / 2, y: height - 6 }, clip(tagText(item, model, context.at), width - 8, 10));
    if (context.outputs.has(item.index)) draw(holder, "path", { class: "out", d: `M${width / 2 - 5},${height + 2}h10l-5,6z` });
    const { status, place } = context.status.get(item);
    const mark = place ? "place" : status;
    if (GLYPHS[mark]) badge(holder, mark, GLYPHS[mark], width - 2, 0);
    this.stubs(holder, item, context);
    draw(holder, "title", {}, `${model.name[item.index]}\n${model.target[item.index]} ${shape}`);
  }

  group(holder, item, context) {
    const { width, height } = item;
    if (!item.open) draw(holder, "rect", { class: "under", x: 4, y: 4, width, height, rx: 7 });
    if (!item.open && item.repeat) draw(holder, "rect", { class: "under", x: 8, y: 8, width, height, rx: 7 }, "");
    draw(holder, "rect", { class: "box", width, height, rx: 7 });
    if (item.parent?.phased) draw(holder, "rect", { class: "lane", width, height: 5, rx: 2.5 });
    const button = draw(holder, "g", { class: "toggle", transform: "translate(8,7)" });
    draw(button, "rect", { width: 15, height: 15, rx: 3 });
    draw(button, "path", { d: item.open ? "M4,7.5h7" : "M4,7.5h7M7.5,4v7" });
    const label = item.repeat ? `${item.label}  ×${item.repeat}` : item.label;
    draw(holder, "text", { class: "name", x: 30, y: 19 }, clip(label, width - 40, 13));
    const { marks, alive } = context.status.get(item);
    if (!item.open) draw(holder, "text", { class: "shape", x: 30, y: 36 }, `${alive} ${alive === 1 ? "op" : "ops"}`);
    let x = width - 6;
    for (const [mark, count] of [...marks].reverse()) x -= badge(holder, mark, `${GLYPHS[mark]}${count}`, x, item.open ? 14 : 34) + 3;
    this.stubs(holder, item, context);
    draw(holder, "title", {}, `${label}: ${alive} ops`);
  }

  stubs(holder, item, context) {
    for (const { end, x, y, width, height, text, title } of stubMarks(item, context)) {
      const mark = draw(holder, "g", { class: `stub ${end}`, transform: `translate(${x},${y})` });
      draw(mark, "rect", { width, height, rx: 6.5 });
      draw(mark, "text", { x: width / 2, y: 10, "text-anchor": "middle" }, text);
      draw(mark, "title", {}, title);
    }
  }

  /** Classes only: selection, highlight, colour. Cheap enough for every click. */
  restyle(scene, context) {
    for (const item of scene.items) {
      const holder = this.shapes.get(item.id);
      holder.setAttribute("class", classes(item, context));
      const fill = context.colouring.fill(item);
      const box = holder.querySelector(".box");
      box.style.fill = fill || "";
      holder.style.setProperty("--on", fill ? context.inkOn(fill) : "");
      holder.classList.toggle("tinted", Boolean(fill));
    }
    for (const edge of scene.edges) this.paths.get(`${edge.from.id}>${edge.to.id}`).setAttribute("class", context.edgeLive(edge) ? "link" : "link gone");
    this.overlay.replaceChildren();
    for (const { from, to, way } of context.strong) {
      draw(this.overlay, "path", { class: `strong ${way}`, d: bend(below(from), above(to)), "marker-end": `url(#${this.prefix}strong)` });
    }
  }
}

function contentKey(item, context) {
  const stubs = stubMarks(item, context).map(({ end, text }) => end + text);
  const status = JSON.stringify(context.status.get(item));
  const output = !item.group && context.outputs.has(item.index);
  const { model } = context;
  const words = item.group ? item.label : `${tagText(item, model, context.at)}|${model.target[item.index]}|${model.label[item.index]}|${model.typeText(item.index)}|${model.kind[item.index]}`;
  return `${words}|${item.width}|${item.height}|${item.open || ""}|${status}|${stubs}|${output}`;
}

function classes(item, context) {
  const { status, place, covered } = context.status.get(item);
  const kind = item.group ? (item.open ? "group open" : "group") : `leaf ${KINDS[context.model.kind[item.index]]}`;
  const phase = item.phase >= 0 && item.parent?.phased ? `phase-${context.model.phases[item.phase]}` : "";
  const lit = context.lit ? (context.lit.has(item) ? "lit" : "dim") : "";
  return [kind, phase, status, covered ? "covered" : "", place ? "place" : "", lit, item === context.selected ? "selected" : "", context.near.has(item) ? "near" : "", item === context.hover ? "hover" : "", context.chosen.has(item) ? "chosen" : ""]
    .filter(Boolean)
    .join(" ");
}

function badge(layer, mark, text, x, y) {
  const width = 10 + 7 * text.length;
  const holder = draw(layer, "g", { class: `badge ${mark}`, transform: `translate(${x - width},${y - 8})` });
  draw(holder, "rect", { width, height: 16, rx: 8 });
  draw(holder, "text", { x: width / 2, y: 12 }, text);
  return width;
}
