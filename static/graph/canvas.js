// The painter for large pictures: canvas 2D that draws only what is in view, and text only where it can be read.
const version = new URL(import.meta.url).search;
const { KINDS } = await import(`./model.js${version}`);
const { tagText } = await import(`./layout.js${version}`);
const { stubMarks } = await import(`./scene.js${version}`);
const { GLYPHS, above, below, clip } = await import(`./svg.js${version}`);

const CELL = 600; // of the grid that finds what is in view
const TEXT_FROM = 0.38; // smallest scale at which text is drawn
const PLAIN_BELOW = 0.16; // below this scale boxes are plain and edges straight: nobody could tell
const TONES = { added: "--st-green-color", fused: "--st-green-color", removed: "--st-red-color", changed: "--st-orange-color", place: "--st-blue-color" };

export class CanvasPainter {
  constructor(canvas) {
    this.canvas = canvas;
    this.at = { x: 0, y: 0, scale: 1 };
    this.pending = 0;
  }

  clear() {
    this.scene = null;
  }

  camera(at) {
    this.at = { ...at };
    this.soon();
  }

  paint(scene, context) {
    this.scene = scene;
    this.grid = makeGrid(scene);
    this.restyle(scene, context);
  }

  restyle(scene, context) {
    this.context = context;
    this.theme = readTheme(this.canvas);
    this.soon();
  }

  /** One frame however many changes. */
  soon() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.frame();
    });
  }

  frame() {
    const { canvas, at, theme } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!this.scene || !width) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.setTransform(ratio * at.scale, 0, 0, ratio * at.scale, ratio * at.x, ratio * at.y);
    const view = { left: -at.x / at.scale, top: -at.y / at.scale, right: (width - at.x) / at.scale, bottom: (height - at.y) / at.scale };
    const { items, edges } = this.grid.inside(view);
    pen.lineJoin = "round";
    if (at.scale < PLAIN_BELOW) this.plain(pen, items, edges, theme);
    else {
      for (const item of items) if (item.group && item.open) this.box(pen, item, theme);
      this.edges(pen, edges, theme);
      for (const item of items) if (!(item.group && item.open)) this.thing(pen, item, theme);
    }
    this.strong(pen, theme);
    canvas.dataset.drawn = String(items.length);
  }

  /** From far away: one path for all edges, one fill for all boxes of a colour. */
  plain(pen, items, edges, theme) {
    const { context } = this;
    for (const item of items) if (item.group && item.open && item.depth < 4) this.box(pen, item, theme);
    pen.beginPath();
    for (const edge of edges) {
      if (!context.edgeLive(edge)) continue;
      pen.moveTo(...edge.points[0]);
      pen.lineTo(...edge.points[edge.points.length - 1]);
    }
    pen.strokeStyle = theme.line;
    pen.lineWidth = 0.6 / this.at.scale;
    pen.stroke();
    const colours = new Map();
    for (const item of items) {
      if (item.group && item.open) continue;
      const { status, place } = context.status.get(item);
      if (status === "absent") continue;
      const dim = context.lit && !context.lit.has(item);
      const tone = item === context.selected ? theme.primary : context.colouring.fill(item) || theme.tones[place ? "place" : status] || theme.plain;
      const key = `${dim ? 0.22 : status === "removed" && context.side === "after" ? 0.3 : 1}|${tone}`;
      if (!colours.has(key)) colours.set(key, []);
      colours.get(key).push(item);
    }
    for (const [key, group] of colours) {
      const [alpha, tone] = key.split("|");
      pen.globalAlpha = Number(alpha);
      pen.fillStyle = tone;
      for (const item of group) pen.fillRect(item.left, item.top, item.width, item.height);
    }
    pen.globalAlpha = 1;
  }

  edges(pen, edges, theme) {
    pen.strokeStyle = theme.line;
    for (const edge of edges) {
      if (!this.context.edgeLive(edge)) continue;
      pen.lineWidth = this.context.edgeWidth(edge.edges);
      pen.beginPath();
      trace(pen, edge.points);
      for (const item of edge.ends.from) join(pen, below(item), edge.points[0]);
      for (const item of edge.ends.to) join(pen, edge.points[edge.points.length - 1], above(item));
      pen.stroke();
    }
  }

  strong(pen, theme) {
    pen.strokeStyle = theme.primary;
    pen.lineWidth = 2.2 / Math.min(1, this.at.scale);
    for (const { from, to, way } of this.context.strong) {
      pen.setLineDash(way === "feeds" ? [7, 3] : []);
      pen.beginPath();
      join(pen, below(from), above(to));
      pen.stroke();
    }
    pen.setLineDash([]);
  }

  box(pen, item, theme) {
    const { status, covered } = this.context.status.get(item);
    if (status === "absent") return;
    pen.globalAlpha = covered ? 0.06 : status === "removed" && this.context.side === "after" ? 0.35 : 1;
    rounded(pen, item, 7);
    pen.fillStyle = theme.box;
    pen.fill();
    pen.strokeStyle = item === this.context.selected ? theme.primary : theme.line;
    pen.lineWidth = item === this.context.selected ? 3 : 1;
    pen.stroke();
    if (item.parent?.phased) {
      pen.fillStyle = theme.phases[this.context.model.phases[item.phase]] || theme.line;
      pen.fillRect(item.left, item.top, item.width, 5);
    }
    if (this.at.scale > TEXT_FROM / 2) {
      this.toggle(pen, item, theme);
      this.text(pen, clip(item.label, item.width - 40, 13), item.left + 30, item.top + 19, `600 13px ${theme.font}`, theme.ink, "left");
    }
    pen.globalAlpha = 1;
  }

  toggle(pen, item, theme) {
    pen.strokeStyle = theme.line;
    pen.lineWidth = 1;
    pen.strokeRect(item.left + 8, item.top + 7, 15, 15);
    pen.beginPath();
    pen.moveTo(item.left + 12, item.top + 14.5);
    pen.lineTo(item.left + 19, item.top + 14.5);
    if (!item.open) {
      pen.moveTo(item.left + 15.5, item.top + 11);
      pen.lineTo(item.left + 15.5, item.top + 18);
    }
    pen.strokeStyle = theme.ink;
    pen.stroke();
  }

  thing(pen, item, theme) {
    const { context } = this;
    const { status, place, marks, covered } = context.status.get(item);
    if (status === "absent") return;
    const mark = place ? "place" : status;
    pen.globalAlpha = (context.lit && !context.lit.has(item) ? 0.22 : 1) * (covered ? 0.06 : status === "removed" && context.side === "after" ? 0.3 : 1);
    const fill = context.colouring.fill(item);
    const kind = item.group ? "group" : KINDS[context.model.kind[item.index]];
    rounded(pen, item, item.group ? 7 : 5);
    pen.fillStyle = fill || theme.fills[TONES[mark] ? mark : kind] || theme.paper;
    pen.fill();
    const chosen = item === context.selected || context.near.has(item) || item === context.hover || context.chosen.has(item);
    pen.strokeStyle = chosen ? theme.primary : theme.tones[mark] || theme.strokes[kind] || theme.strokes.op;
    pen.lineWidth = item === context.selected ? 3 : chosen || theme.tones[mark] ? 2 : 1;
    pen.setLineDash(mark === "removed" ? [5, 3] : mark === "changed" ? [1, 2] : kind === "view" ? [3, 2] : []);
    pen.stroke();
    pen.setLineDash([]);
    if (this.at.scale > TEXT_FROM) this.words(pen, item, theme, fill ? context.inkOn(fill) : theme.ink, marks, mark);
    if (this.at.scale > TEXT_FROM) this.stubs(pen, item, theme);
    pen.globalAlpha = 1;
  }

  stubs(pen, item, theme) {
    for (const { x, y, width, height, text } of stubMarks(item, this.context)) {
      pen.beginPath();
      pen.roundRect(item.left + x, item.top + y, width, height, 6.5);
      pen.fillStyle = theme.paper;
      pen.fill();
      pen.strokeStyle = theme.line;
      pen.lineWidth = 1;
      pen.stroke();
      this.text(pen, text, item.left + x + width / 2, item.top + y + 10, `9.5px ${theme.font}`, theme.soft, "center");
    }
  }

  words(pen, item, theme, ink, marks, mark) {
    const { model } = this.context;
    if (item.group) {
      this.toggle(pen, item, theme);
      const label = item.repeat ? `${item.label}  ×${item.repeat}` : item.label;
      this.text(pen, clip(label, item.width - 40, 13), item.left + 30, item.top + 19, `600 13px ${theme.font}`, ink, "left");
      const counts = marks.map(([name, count]) => `${GLYPHS[name]}${count}`).join(" ");
      this.text(pen, `${this.context.status.get(item).alive} ops  ${counts}`, item.left + 30, item.top + 36, `10.5px ${theme.font}`, ink, "left");
      return;
    }
    const middle = item.left + item.width / 2;
    const shape = model.typeText(item.index);
    this.text(pen, clip(model.label[item.index], item.width - 14, 12.5), middle, item.top + (shape ? 17 : 18), `600 12.5px ${theme.font}`, ink, "center");
    if (shape) this.text(pen, clip(shape, item.width - 8, 10.5), middle, item.top + 31, `10.5px ${theme.font}`, ink, "center");
    if (item.tags.length) this.text(pen, clip(tagText(item, model, this.context.at), item.width - 8, 10), middle, item.top + item.height - 6, `10px ${theme.font}`, theme.soft, "center");
    if (GLYPHS[mark]) this.text(pen, GLYPHS[mark], item.left + item.width - 8, item.top + 5, `700 14px ${theme.font}`, theme.tones[mark], "center");
  }

  text(pen, text, x, y, font, ink, align) {
    pen.font = font;
    pen.fillStyle = ink;
    pen.textAlign = align;
    pen.fillText(text, x, y);
  }
}

function rounded(pen, item, radius) {
  pen.beginPath();
  pen.roundRect(item.left, item.top, item.width, item.height, radius);
}

function trace(pen, points) {
  pen.moveTo(points[0][0], points[0][1]);
  for (let i = 1; i < points.length - 1; i++) {
    const last = i === points.length - 2;
    const [u, v] = points[i + 1];
    pen.quadraticCurveTo(points[i][0], points[i][1], last ? u : (points[i][0] + u) / 2, last ? v : (points[i][1] + v) / 2);
  }
  if (points.length === 2) pen.lineTo(points[1][0], points[1][1]);
}

function join(pen, [x, y], [u, v]) {
  const dip = Math.max(14, Math.min(160, Math.abs(v - y) / 2));
  pen.moveTo(x, y);
  pen.bezierCurveTo(x, y + dip, u, v - dip, u, v);
}

/** Items and edges by grid cell; open groups span many cells and are kept apart. */
function makeGrid(scene) {
  const [cells, wide] = [new Map(), { items: [], edges: [] }];
  const put = (kind, one, left, top, right, bottom) => {
    const [x0, x1, y0, y1] = [left, right, top, bottom].map((value) => Math.floor(value / CELL));
    if ((x1 - x0 + 1) * (y1 - y0 + 1) > 12) {
      wide[kind].push([one, left, top, right, bottom]);
      return;
    }
    for (let x = x0; x <= x1; x++)
      for (let y = y0; y <= y1; y++) {
        const key = x * 65536 + y;
        if (!cells.has(key)) cells.set(key, { items: [], edges: [] });
        cells.get(key)[kind].push(one);
      }
  };
  scene.items.forEach((item, order) => {
    item.order = order;
    put("items", item, item.left, item.top, item.left + item.width, item.top + item.height);
  });
  for (const edge of scene.edges) {
    const [xs, ys] = [edge.points.map((point) => point[0]), edge.points.map((point) => point[1])];
    for (const item of [...edge.ends.from, ...edge.ends.to]) [xs, ys].forEach((list, i) => list.push(i ? item.top : item.left));
    put("edges", edge, Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys));
  }
  const inside = (view) => {
    const [items, edges] = [new Set(), new Set()];
    const hits = ([, left, top, right, bottom]) => left <= view.right && right >= view.left && top <= view.bottom && bottom >= view.top;
    for (const entry of wide.items) if (hits(entry)) items.add(entry[0]);
    for (const entry of wide.edges) if (hits(entry)) edges.add(entry[0]);
    const [x0, x1, y0, y1] = [view.left, view.right, view.top, view.bottom].map((value) => Math.floor(value / CELL));
    const add = (cell) => {
      for (const item of cell.items) items.add(item);
      for (const edge of cell.edges) edges.add(edge);
    };
    if ((x1 - x0 + 1) * (y1 - y0 + 1) > cells.size) for (const cell of cells.values()) add(cell);
    else
      for (let x = x0; x <= x1; x++)
        for (let y = y0; y <= y1; y++) {
          const cell = cells.get(x * 65536 + y);
          if (cell) add(cell);
        }
    return { items: [...items].sort((a, b) => a.order - b.order), edges: [...edges] };
  };
  return { inside };
}

function readTheme(element) {
  const style = getComputedStyle(element);
  const colour = (name, fallback) => style.getPropertyValue(name).trim() || fallback;
  const [ink, paper, blue] = [colour("--st-text-color", "#1d2430"), colour("--st-background-color", "#ffffff"), colour("--st-blue-color", "#2f5fa8")];
  const tones = Object.fromEntries(Object.entries(TONES).map(([mark, name]) => [mark, colour(name, blue)]));
  const mix = (tone, share) => `color-mix(in srgb, ${tone} ${share}%, ${paper})`;
  const quiet = mix(ink, 7);
  return {
    ink,
    paper,
    tones,
    primary: colour("--st-primary-color", blue),
    font: colour("--st-font", "sans-serif"),
    line: mix(ink, 34),
    soft: mix(ink, 62),
    plain: mix(ink, 45),
    box: mix(ink, 2.5),
    phases: { forward: blue, backward: tones.removed, loss: tones.changed, recompute: tones.added },
    fills: { matmul: mix(blue, 16), parameter: quiet, input: quiet, constant: quiet, group: mix(ink, 5), ...Object.fromEntries(Object.entries(tones).map(([mark, tone]) => [mark, mix(tone, 15)])) },
    strokes: { op: mix(ink, 45), matmul: blue, input: ink, group: mix(ink, 34) },
  };
}
