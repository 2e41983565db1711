// A kernel: the graph of what it replaced, and the code that computes it. A node and its lines light up together, whichever of them is
// pointed at. All text is set as text: names in it come from the reader's model.
const version = new URL(import.meta.url).search;
const { View } = await import(`./view.js${version}`);
const { tokens } = await import(`./tokens.js${version}`);

const TONES = ["blue", "green", "orange", "violet", "red", "yellow"];
const shown = new WeakMap();

/** Called by Streamlit at mount and whenever data or theme change. */
export function kernel({ parentElement, data }) {
  const frame = parentElement.querySelector(".kernel-view");
  const before = shown.get(parentElement);
  if (before?.digest === data.digest) {
    before.view.session?.repaint(); // the theme may have changed
    return;
  }
  shown.set(parentElement, new KernelView(frame, data));
}

function make(parent, tag, attributes = {}, text = "") {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  parent.append(element);
  return element;
}

export class KernelView {
  constructor(frame, data) {
    Object.assign(this, { frame, data, digest: data.digest, pinned: null });
    frame.replaceChildren();
    frame.style.height = `${data.height}px`;
    this.lines = new Map(data.links.map((link) => [link.node, link]));
    this.nodesOf = new Map();
    for (const link of data.links) if (!link.whole_loop) for (const line of link.lines) this.nodesOf.set(line, [...(this.nodesOf.get(line) || []), link.node]);
    this.tone = new Map(data.nodes.filter((node) => node.tone >= 0).map((node) => [node.name, TONES[node.tone % TONES.length]]));
    const left = make(frame, "div", { class: "kernel-body" });
    this.drawGraph(left);
    this.listNodes(left);
    const right = make(frame, "div", { class: "kernel-code" });
    this.writeCode(right);
    this.told = make(frame, "div", { class: "kernel-told", "aria-live": "polite" }, data.hint);
    frame.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      this.pin(null);
    });
    this.toFirstLine();
  }

  // -------------------------------------------------------------- the graph and the list

  async drawGraph(left) {
    const place = make(left, "div", { class: "graph-view compact" });
    this.view = new View(place, {
      report: (what, chosen) => {
        if (what === "selected" && this.ready) this.pin(chosen ? chosen.name : null);
      },
    });
    place.setAttribute("aria-label", "The nodes that the kernel replaced, as a graph. The list below it says the same.");
    await this.view.load(this.data.body);
    const { session } = this.view;
    if (!session) return;
    const hover = session.hover.bind(session);
    session.hover = (item) => {
      hover(item);
      this.point(item && !item.group ? session.model.name[item.index] : null);
    };
    this.ready = true;
  }

  listNodes(left) {
    const list = make(left, "ul", { class: "kernel-nodes", "aria-label": "Nodes of the kernel" });
    this.buttons = new Map();
    for (const node of this.data.nodes) {
      const row = make(list, "li");
      const button = make(row, "button", { type: "button", "aria-pressed": "false", class: `tone-${this.tone.get(node.name) || "none"}` });
      make(button, "i", { "aria-hidden": "true" });
      make(button, "b", {}, node.name);
      make(button, "span", { class: "what" }, node.what);
      make(button, "span", { class: "where" }, node.where);
      button.addEventListener("pointerenter", () => this.point(node.name));
      button.addEventListener("pointerleave", () => this.point(null));
      button.addEventListener("focus", () => this.point(node.name));
      button.addEventListener("click", () => this.pin(this.pinned === node.name ? null : node.name));
      this.buttons.set(node.name, button);
    }
  }

  // -------------------------------------------------------------- the code

  writeCode(right) {
    const head = make(right, "div", { class: "kernel-head" });
    make(head, "b", {}, this.data.title);
    const copy = make(head, "button", { type: "button" }, "Copy");
    copy.addEventListener("click", () => {
      navigator.clipboard?.writeText(this.data.source).then(
        () => (copy.textContent = "Copied"),
        () => (copy.textContent = "Not allowed"),
      );
      setTimeout(() => (copy.textContent = "Copy"), 1500);
    });
    this.code = make(right, "div", { class: "code", tabindex: "0", role: "region", "aria-label": `${this.data.title}. Arrow keys walk through the lines that compute a node.` });
    const inner = make(this.code, "div", { class: "rows" });
    const texts = this.data.source.split("\n");
    this.rows = texts.map((text, at) => this.row(inner, text, at + 1));
    this.at = -1;
    this.code.addEventListener("keydown", (event) => this.walk(event));
    this.code.addEventListener("pointerleave", () => this.point(null));
  }

  /** Generated loops are deep: the indentation is shown shorter than it is. */
  row(inner, text, number) {
    const names = this.nodesOf.get(number) || [];
    const row = make(inner, "div", { class: `row tone-${this.tone.get(names[0]) || "none"}` });
    make(row, "span", { class: "number", "aria-hidden": "true" }, String(number));
    const before = (this.nodesOf.get(number - 1) || []).join();
    make(row, "span", { class: "names" }, names.join() === before ? "" : names.join(", ")).title = names.join(", ");
    const code = make(row, "code");
    for (const [kind, part] of tokens(text.replace(/^ +/, (deep) => " ".repeat(Math.ceil(deep.length / this.data.indent))), this.data.language)) {
      if (kind) make(code, "span", { class: `t-${kind}` }, part);
      else code.append(part);
    }
    if (!names.length) row.addEventListener("pointerenter", () => this.point(null));
    else {
      row.classList.add("linked");
      row.addEventListener("pointerenter", () => this.light(names, number));
      row.addEventListener("click", () => this.pin(this.pinned === names[0] ? null : names[0], false));
    }
    return row;
  }

  /** The arrow keys go from one line that computes something to the next. */
  walk(event) {
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!way) return;
    event.preventDefault();
    const linked = [...this.nodesOf.keys()].sort((a, b) => a - b);
    if (!linked.length) return;
    this.at = Math.max(0, Math.min(linked.length - 1, this.at + way));
    const number = linked[this.at];
    this.light(this.nodesOf.get(number), number);
    this.rows[number - 1].scrollIntoView({ block: "nearest" });
  }

  toFirstLine() {
    const first = Math.min(...this.nodesOf.keys());
    if (Number.isFinite(first)) this.showLine(Math.max(1, first - 3), false);
  }

  /** Scrolls the code alone, never the page. */
  showLine(number, onlyIfHidden = true) {
    const row = this.rows[number - 1];
    const top = row.offsetTop;
    const { scrollTop, clientHeight } = this.code;
    if (onlyIfHidden && top >= scrollTop && top + row.offsetHeight <= scrollTop + clientHeight) return;
    this.code.scrollTop = Math.max(0, top - (onlyIfHidden ? clientHeight / 3 : 0));
  }

  // -------------------------------------------------------------- together

  /** A node is pointed at; null goes back to the one that was clicked. */
  point(name) {
    const at = name ?? this.pinned;
    if (at === this.pointed) return;
    this.pointed = at;
    if (at === null || at === undefined) return this.clear();
    const link = this.lines.get(at);
    this.mark([at], link ? new Set(link.lines) : new Set(), link?.whole_loop);
    if (link) this.showLine(link.lines[0]);
    this.say(at, link);
  }

  /** A line is pointed at. */
  light(names, number) {
    this.pointed = undefined;
    const lines = new Set(names.flatMap((name) => this.lines.get(name).lines));
    this.mark(names, lines, false, number);
    this.told.textContent = `Line ${number} computes ${names.join(" and ")}.`;
  }

  pin(name, scroll = true) {
    if (name === this.pinned && name === null) return;
    this.pinned = name;
    for (const [each, button] of this.buttons) button.setAttribute("aria-pressed", String(each === name));
    this.pointed = undefined;
    if (name && !scroll) this.light([name], this.lines.get(name)?.lines[0]);
    else this.point(null);
  }

  say(name, link) {
    const node = this.data.nodes.find((one) => one.name === name);
    this.told.textContent = node ? `${name}: ${node.says}` : `${name} is read by the kernel: it is made outside.`;
  }

  mark(names, lines, whole, only = 0) {
    this.frame.classList.add("pointing");
    this.rows.forEach((row, at) => {
      row.classList.toggle("lit", lines.has(at + 1));
      row.classList.toggle("whole", Boolean(whole) && lines.has(at + 1));
      row.classList.toggle("current", only === at + 1);
    });
    for (const [each, button] of this.buttons) button.classList.toggle("lit", names.includes(each));
    const { session } = this.view;
    if (!session?.scene) return;
    session.light(new Set(names.map((name) => session.model.find(name, session.step)).filter((index) => index >= 0)));
  }

  clear() {
    this.frame.classList.remove("pointing");
    for (const row of this.rows) row.classList.remove("lit", "whole", "current");
    for (const button of this.buttons.values()) button.classList.remove("lit");
    if (this.view.session?.scene) this.view.session.light(null);
    this.told.textContent = this.data.hint;
  }
}
