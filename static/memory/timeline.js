// Memory over time and the lifetimes of the largest tensors over one axis, with a cursor that is dragged through both.
// `show` draws what Python's pages/ui/timeline sends, `cursor` moves the cursor from elsewhere on the page; what the reader does goes back
// as `moved`: {at, name, count}.
const SVG = "http://www.w3.org/2000/svg";
const LEFT = 62, RIGHT = 12, TOP = 24, CURVE = 190, STRIP = 8, AXIS = 22, ROW = 11, REST = 30;
const views = new WeakMap();
const named = new Map(); // pane -> timeline
const granted = new Map(); // pane -> the last move from elsewhere

export function show({ parentElement, data, setStateValue }) {
  const frame = parentElement.querySelector(".timeline");
  let view = views.get(parentElement);
  if (!view) views.set(parentElement, (view = new Timeline(frame)));
  view.report = (value) => setStateValue("moved", value);
  named.set(data.pane, view);
  view.load(data);
}

/** Moves the cursor and marks a tensor, unless this very move was made before. */
export function cursor({ data }, patience = 100) {
  const view = named.get(data.pane);
  if (view?.data?.digest !== data.of) {
    if (patience) setTimeout(() => cursor({ data }, patience - 1), 100);
    return;
  }
  view.mark(data.bar);
  const turn = `${data.of} ${data.turn}`;
  if (granted.get(data.pane) === turn && view.placed) return;
  granted.set(data.pane, turn);
  view.placed = true;
  view.place(data.at);
}

class Timeline {
  constructor(frame) {
    this.frame = frame;
    this.at = 0;
    this.count = 0; // moves by the reader
    this.status = frame.appendChild(document.createElement("div"));
    this.status.className = "now";
    this.svg = frame.appendChild(make("svg", { role: "slider", tabindex: 0, "aria-label": "Position in the order of execution" }));
    this.svg.addEventListener("pointerdown", (event) => this.grab(event));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(frame);
  }

  load(data) {
    if (this.data?.digest === data.digest) return;
    this.data = data;
    this.placed = false;
    this.bar = null;
    this.at = data.peakAt;
    this.draw();
  }

  x(position) {
    return LEFT + (position / this.data.count) * (this.width - LEFT - RIGHT);
  }

  draw() {
    if (!this.data || !this.frame.clientWidth) return;
    const { data, svg } = this;
    this.width = this.frame.clientWidth - 2;
    this.bottom = TOP + CURVE + STRIP + AXIS;
    const rows = data.bars.length + 1; // one more for a chosen tensor that is not among them
    this.height = this.bottom + rows * ROW + (data.rest ? REST : 0) + 4;
    svg.replaceChildren();
    for (const [name, value] of Object.entries({ width: this.width, height: this.height, "aria-valuemin": 0, "aria-valuemax": data.count - 1 })) svg.setAttribute(name, value);
    this.curves();
    this.phases();
    this.bars = data.bars.map((bar, row) => this.drawBar(bar, row));
    this.extra = svg.appendChild(make("g", {}));
    if (data.rest) this.drawRest(rows);
    this.line = svg.appendChild(make("line", { class: "cursor", y1: TOP - 6, y2: this.height }));
    this.grip = svg.appendChild(make("path", { class: "grip", d: "M-6,-8h12v7l-6,6l-6,-6z" }));
    this.mark(this.bar);
    this.place(this.at);
  }

  y(value) {
    return TOP + CURVE * (1 - value / (this.data.peak * 1.08 || 1));
  }

  curves() {
    const { data, svg } = this;
    for (const tick of ticks(data.peak)) {
      svg.append(make("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: this.y(tick), y2: this.y(tick) }));
      svg.append(text(size(tick), { class: "tick", x: LEFT - 6, y: this.y(tick) + 4, "text-anchor": "end" }));
    }
    const below = data.drawn.map(() => 0);
    for (const layer of data.layers) {
      const above = layer.values.map((value, index) => below[index] + value);
      const path = make("path", { class: "layer", fill: layer.tone, d: this.area(below, above) });
      path.append(title(`${layer.role}: ${size(Math.max(...layer.values))} at most`));
      svg.append(path);
      above.forEach((value, index) => (below[index] = value));
    }
    if (!data.peak) return;
    const x = this.x(data.peakAt + 0.5), y = this.y(data.peak);
    svg.append(make("line", { class: "peak", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }));
    svg.append(make("circle", { class: "peak", cx: x, cy: y, r: 3.5 }));
    const right = x > this.width * 0.55;
    svg.append(text(data.peakLabel, { class: "peak", x: right ? x - 8 : x + 8, y: y - 5, "text-anchor": right ? "end" : "start" }));
  }

  /** A stepped area between two rows of values over the positions that are drawn. */
  area(low, high) {
    const { drawn, count } = this.data;
    const edges = drawn.map((position, index) => [this.x(index ? position : 0), this.x(index + 1 < drawn.length ? drawn[index + 1] : count)]);
    const along = (values, order) => order.flatMap((index) => [`${edges[index][0].toFixed(1)},${this.y(values[index]).toFixed(1)}`, `${edges[index][1].toFixed(1)},${this.y(values[index]).toFixed(1)}`]);
    const order = [...drawn.keys()];
    return `M${along(high, order).join("L")}L${along(low, order).reverse().join("L")}Z`;
  }

  phases() {
    const { data, svg } = this, y = TOP + CURVE;
    for (const [start, end, phase] of data.phases) {
      const x = this.x(start), wide = this.x(end + 1) - x;
      const strip = make("rect", { class: `phase ${phase}`, x, y: y + 1, width: Math.max(wide, 0.5), height: STRIP });
      strip.append(title(`${phase}: positions ${start} to ${end}`));
      svg.append(strip);
      if (wide > 7 * phase.length) svg.append(text(phase, { class: "tick", x: x + wide / 2, y: y + STRIP + 15, "text-anchor": "middle" }));
    }
  }

  drawBar(bar, row, at = this.svg) {
    const x = this.x(bar.start), wide = Math.max(this.x(bar.end + 1) - x, 1.5), y = this.bottom + row * ROW;
    const group = make("g", { class: "life", "data-name": bar.name });
    group.append(make("rect", { x, y: y + 1, width: wide, height: ROW - 2, rx: 1.5, fill: bar.tone }));
    group.append(title(`${bar.name}: ${bar.size}, ${bar.role}\npositions ${bar.start} to ${bar.end}`));
    const words = `${bar.name} ${bar.size}`, length = words.length * 5;
    const place = x + wide + length < this.width - RIGHT ? { x: x + wide + 4, "text-anchor": "start" } : x - length > LEFT ? { x: x - 4, "text-anchor": "end" } : { x: x + 4, "text-anchor": "start", class: "inside" };
    group.append(text(words, { y: y + ROW - 2, ...place }));
    at.append(group);
    return { bar, group };
  }

  /** All that is not among the bars, as one curve of its own. */
  drawRest(rows) {
    const { data, svg } = this, y = this.bottom + rows * ROW + 12, high = REST - 14;
    const most = Math.max(...data.rest.values, 1);
    const points = data.drawn.map((position, index) => `${this.x(index ? position : 0).toFixed(1)},${(y + high * (1 - data.rest.values[index] / most)).toFixed(1)}`);
    svg.append(make("path", { class: "rest", d: `M${LEFT},${y + high}L${points.join("L")}L${this.width - RIGHT},${y + high}Z` }));
    svg.append(text(data.rest.label, { class: "tick", x: LEFT + 4, y: y - 2 }));
  }

  /** The chosen tensor: its bar, or one more in a row of its own. */
  mark(bar) {
    this.bar = bar;
    if (!this.bars) return;
    this.extra.replaceChildren();
    const known = this.bars.some((one) => one.bar.name === bar?.name);
    this.chosen = bar && !known ? this.drawBar(bar, this.data.bars.length, this.extra) : null;
    for (const { bar: one, group } of this.all()) group.classList.toggle("chosen", one.name === bar?.name);
    this.live();
  }

  all() {
    return this.chosen ? [...this.bars, this.chosen] : this.bars;
  }

  place(position) {
    this.at = Math.max(0, Math.min(this.data.count - 1, position));
    const x = this.x(this.at + 0.5);
    this.line.setAttribute("x1", x);
    this.line.setAttribute("x2", x);
    this.grip.setAttribute("transform", `translate(${x},${TOP - 8})`);
    const { names, at, count, word } = this.data;
    const say = `${this.at + 1} of ${count}: ${names[this.at]} runs, ${size(at[this.at])} held (${word})`;
    this.status.textContent = say;
    this.svg.setAttribute("aria-valuenow", this.at);
    this.svg.setAttribute("aria-valuetext", say);
    this.live();
  }

  live() {
    for (const { bar, group } of this.all()) group.classList.toggle("dead", this.at < bar.start || this.at > bar.end);
  }

  grab(event) {
    if (event.button) return;
    event.preventDefault();
    this.svg.focus();
    this.svg.setPointerCapture(event.pointerId);
    const follow = (moved) => this.place(this.position(moved));
    const name = event.target.closest("[data-name]")?.dataset.name || "", from = event.clientX;
    follow(event);
    const done = (last) => {
      this.svg.removeEventListener("pointermove", follow);
      this.tell(Math.abs(last.clientX - from) < 4 ? name : "");
    };
    this.svg.addEventListener("pointermove", follow);
    this.svg.addEventListener("pointerup", done, { once: true });
  }

  position(event) {
    const x = event.clientX - this.svg.getBoundingClientRect().left - LEFT;
    return Math.floor((x / (this.width - LEFT - RIGHT)) * this.data.count);
  }

  key(event) {
    const far = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: this.at - far, ArrowRight: this.at + far, Home: 0, End: this.data.count - 1, p: this.data.peakAt }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.place(to);
    clearTimeout(this.later);
    this.later = setTimeout(() => this.tell(""), 250);
  }

  tell(name) {
    this.report({ at: this.at, name, count: ++this.count, of: this.data.digest });
  }
}

function make(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function text(words, attributes) {
  const element = make("text", attributes);
  element.textContent = words;
  return element;
}

function title(words) {
  const element = make("title", {});
  element.textContent = words;
  return element;
}

/** Bytes with a binary unit, as Python's show.size. */
function size(count) {
  for (const [unit, next] of [["B", 0], ["KiB", 1], ["MiB", 2], ["GiB", 3]]) {
    const value = count / 1024 ** next;
    if (value < 1024 || unit === "GiB") return unit === "B" ? `${value} B` : `${value.toFixed(1)} ${unit}`;
  }
}

/** Three or four round numbers of bytes below the peak. */
function ticks(peak) {
  if (!peak) return [];
  const unit = 1024 ** Math.min(3, Math.floor(Math.log2(peak) / 10)), whole = peak / unit;
  const power = 10 ** Math.floor(Math.log10(whole / 3));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => whole / each <= 4) * unit;
  return Array.from({ length: Math.floor(peak / step) + 1 }, (_, index) => index * step);
}
