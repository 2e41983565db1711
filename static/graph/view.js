// The whole component: panes side by side, and around them the tools, the steps, the finder, the legend, the map and the outline.
const version = new URL(import.meta.url).search;
const { Session } = await import(`./session.js${version}`);
const { Pane } = await import(`./pane.js${version}`);
const { Outline } = await import(`./outline.js${version}`);
const { Minimap } = await import(`./minimap.js${version}`);
const { COLOURINGS, hasValues } = await import(`./colour.js${version}`);
const { ancestors, between, descendants, find, kin, within } = await import(`./find.js${version}`);
const { save, toDot, toPng, toSvg } = await import(`./export.js${version}`);

const KEYS = [
  ["/", "find"], ["Enter · Shift+Enter", "next or previous find"], ["Esc", "clear find, light and selection"],
  ["← ↑ → ↓", "select the nearest in that direction"], ["Enter", "open or close the selected group"],
  ["Shift+← · Shift+→", "one step back or forward"], ["+ · − · f", "larger, smaller, fit"],
  ["1 · 2 · 3", "light what is within so many hops"], ["b · d", "light what leads to the selected node, or depends on it"],
  ["Shift+click", "light the paths between two nodes"], ["Ctrl+click · c", "add a node to the chosen ones, or take it out"], ["p", "parameters as nodes or folded"], ["w", "width of edges by bytes"],
  ["x", "open everything, or close it"], ["o", "outline as text"], ["?", "this sheet"],
]; // prettier-ignore

export function make(parent, tag, attributes = {}, text = "") {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  parent.append(element);
  return element;
}

/** When a pipeline grows by a step, what was open stays open, and nothing jumps more than it must. */
function carriedOver(before, payload) {
  if (!before?.scene) return {};
  const names = new Set(payload.nodes.name.map((number) => payload.strings[number]));
  const shared = before.model.name.filter((name) => names.has(name)).length;
  if (shared < names.size / 2) return {};
  return { open: before.openIds, marksToo: true, colour: before.colour, wide: before.wide, unfold: before.unfold };
}

export class View {
  /** `report(name, value)` tells what the reader chose: selected, step, look; `titles` name the two sides. */
  constructor(frame, { report = () => {}, css = "", titles = ["Before", "After"] } = {}) {
    Object.assign(this, { frame, report, css, titles });
    frame.replaceChildren();
    frame.tabIndex = 0;
    frame.setAttribute("role", "application");
    frame.setAttribute("aria-label", "Graph. Press the question mark for the keys, o for an outline as text.");
    this.bar = make(frame, "div", { class: "bar" });
    this.heads = make(frame, "div", { class: "heads" });
    this.stages = make(frame, "div", { class: "stages" });
    this.status = make(frame, "div", { class: "status", "aria-live": "polite" });
    this.legend = make(frame, "div", { class: "legend" });
    this.sheet = make(frame, "dialog", { class: "sheet", "aria-label": "Keys" });
    frame.addEventListener("keydown", (event) => this.key(event));
    this.found = [];
    this.foundAt = -1;
  }

  /** Shows a payload; `settings` as a link carries them. */
  async load(payload, settings = {}) {
    const before = this.session;
    this.payload = payload;
    before?.worker?.terminate();
    try {
      const carried = carriedOver(before, payload);
      this.carried = Boolean(carried.open);
      this.session = new Session(payload, { ...carried, ...settings });
    } catch (error) {
      this.stages.textContent = `This graph cannot be drawn: ${error.message}.`;
      return;
    }
    this.session.told = (what) => this.told(what);
    this.stages.replaceChildren();
    this.sides = payload.steps.length > 1 ? ["before", "after"] : ["after"];
    const names = this.sides.length > 1 ? this.titles : [""];
    this.panes = this.sides.map((side, at) => new Pane(this.stages, this.session, side, names[at]));
    this.heads.replaceChildren();
    this.heads.hidden = this.sides.length < 2;
    for (const name of names) make(this.heads, "div", { class: "side" }, name);
    for (const pane of this.panes) pane.onPath = (index) => this.path(index);
    this.fillBar();
    this.map = new Minimap(this.stages, this.session, this.panes[this.panes.length - 1]);
    this.outline?.list.remove();
    this.outline = new Outline(this.frame, this.session, (index) => this.goTo(index));
    this.showSides();
    await this.session.arrange();
    this.whenSized(() => {
      if (settings.at) this.session.move(settings.at);
      else if (this.carried) this.main.stay(before.at, before.scene);
      else this.main.firstLook();
      if (settings.selected) this.goTo(this.session.model.find(settings.selected, this.session.step), false);
    });
    this.told("load");
    this.frame.dataset.drawn = payload.digest || "yes";
  }

  /** The pane that keys and buttons act on. */
  get main() {
    return this.panes[this.panes.length - 1];
  }

  whenSized(act) {
    if (this.main.size[0]) return act();
    new ResizeObserver((_, watch) => this.main.size[0] && (watch.disconnect(), act())).observe(this.main.frame);
    return undefined;
  }

  // -------------------------------------------------------------- the bar

  fillBar() {
    this.bar.replaceChildren();
    if (this.sides.length > 1) this.scrubber();
    const box = make(this.bar, "span", { class: "finder" });
    this.query = make(box, "input", { type: "search", placeholder: "Find: softmax, op:mm shape:768, mm -> add", "aria-label": "Find nodes" });
    this.query.addEventListener("input", () => this.find());
    this.hits = make(box, "output", { class: "hits" });
    const colour = make(this.bar, "select", { "aria-label": "Colour by", title: "Colour by" });
    for (const [name, { title }] of Object.entries(COLOURINGS)) {
      if (hasValues(this.session.model, name)) make(colour, "option", { value: name }, `Colour: ${title}`);
    }
    colour.value = this.session.colour;
    colour.addEventListener("change", () => this.session.setColour(colour.value));
    const tools = make(this.bar, "span", { class: "tools" });
    this.button(tools, "Fit", "Show everything that is open", () => this.main.fit());
    this.button(tools, "+", "Larger", () => this.main.zoom(1.25));
    this.button(tools, "−", "Smaller", () => this.main.zoom(0.8));
    this.button(tools, "Reset", "Open and close groups as at first", () => this.reset());
    this.exports(tools);
    this.button(tools, "Outline", "The graph as text", () => this.outline.toggle());
    this.button(tools, "?", "Keys", () => this.keys());
  }

  button(parent, label, title, act) {
    const button = make(parent, "button", { type: "button", title, "aria-label": title }, label);
    button.addEventListener("click", () => act());
    return button;
  }

  exports(parent) {
    const menu = make(parent, "select", { "aria-label": "Save what is shown", title: "Save what is shown" });
    const choices = { "": "Save …", svg: "SVG", "png 1600": "PNG, 1,600 wide", "png 4000": "PNG, 4,000 wide", "png 8000": "PNG, 8,000 wide", dot: "Graphviz DOT" };
    for (const [value, label] of Object.entries(choices)) make(menu, "option", { value }, label);
    menu.addEventListener("change", async () => {
      const [kind, width] = menu.value.split(" ");
      menu.value = "";
      try {
        if (kind === "svg") save(toSvg(this.main, this.css), "graph.svg");
        if (kind === "png") save(await toPng(this.main, this.css, Number(width)), "graph.png");
        if (kind === "dot") save(toDot(this.main), "graph.dot");
      } catch (error) {
        this.status.textContent = `Could not be saved: ${error.message}`;
      }
    });
  }

  scrubber() {
    const box = make(this.bar, "span", { class: "scrubber" });
    const { steps } = this.session.model;
    this.button(box, "◀", "One step back", () => this.session.setStep(this.session.step - 1));
    this.slider = make(box, "input", { type: "range", min: 0, max: steps.length - 1, step: 1, "aria-label": "Step of the pipeline" });
    this.button(box, "▶", "One step forward", () => this.session.setStep(this.session.step + 1));
    this.stepName = make(box, "output", { class: "step" });
    this.slider.addEventListener("input", () => this.session.setStep(Number(this.slider.value)));
  }

  async reset() {
    this.session.openAtFirst();
    this.session.lit = null;
    await this.session.arrange();
    this.main.firstLook();
    this.told("open");
  }

  keys() {
    this.sheet.replaceChildren();
    make(this.sheet, "h3", {}, "Keys");
    const list = make(this.sheet, "dl");
    for (const [key, meaning] of KEYS) {
      make(list, "dt", {}, key);
      make(list, "dd", {}, meaning);
    }
    this.button(this.sheet, "Close", "Close", () => this.sheet.close());
    this.sheet.showModal();
  }

  // -------------------------------------------------------------- finding and lighting

  find() {
    const { chains, problem } = find(this.session.model, this.session.step, this.query.value);
    this.found = chains;
    this.foundAt = -1;
    this.hits.textContent = problem || (this.query.value.trim() ? `${chains.length.toLocaleString("en")} found` : "");
    this.hits.classList.toggle("problem", Boolean(problem));
    this.session.light(chains.length ? new Set(chains.flat()) : null);
  }

  /** Finds what a page asks for, as if it had been typed. */
  search(text) {
    this.query.value = text;
    this.find();
    this.next(1);
  }

  next(way) {
    if (!this.found.length) return;
    this.foundAt = (this.foundAt + way + this.found.length) % this.found.length;
    this.hits.textContent = `${this.foundAt + 1} of ${this.found.length.toLocaleString("en")}`;
    this.goTo(this.found[this.foundAt][0]);
  }

  async goTo(index, centre = true) {
    if (index < 0 || index === undefined) return;
    const leaf = await this.session.reveal(index);
    if (!leaf) return;
    const side = this.session.model.alive(index, this.session.step) ? "after" : "before";
    this.session.selectIndex(index, side);
    if (centre) this.main.centre(leaf);
  }

  /** Shows a node that was chosen elsewhere on the page. */
  goToName(name) {
    const [after, before] = ["after", "before"].map((side) => this.session.model.find(name, this.session.graphOf(side)));
    this.goTo(after >= 0 ? after : before);
  }

  light(which) {
    const { model, selected, step } = this.session;
    if (!selected || selected.group) return;
    const index = kin(model, selected.index, step)[0];
    if (index === undefined) return;
    const lit = { before: ancestors, after: descendants }[which]?.(model, step, index) || within(model, step, index, which);
    this.session.light(lit);
    const words = { before: "lead to it", after: "depend on it" }[which] || `within ${which} ${which === 1 ? "hop" : "hops"}`;
    this.hits.textContent = `${(lit.size - 1).toLocaleString("en")} ${words}`;
  }

  path(index) {
    const { model, selected, step } = this.session;
    if (!selected || selected.group) return;
    const lit = between(model, step, selected.index, index);
    this.session.light(lit.size ? lit : null);
    this.hits.textContent = lit.size ? `${lit.size.toLocaleString("en")} on paths between the two` : "no path between the two";
  }

  // -------------------------------------------------------------- keys

  key(event) {
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
    if (event.target === this.query) return this.findKey(event);
    if (typing || this.sheet.open || event.ctrlKey || event.metaKey || event.altKey) return undefined;
    const act = this.actions(event);
    if (!act) return undefined;
    event.preventDefault();
    event.stopPropagation();
    return act();
  }

  findKey(event) {
    event.stopPropagation(); // letters typed here are no shortcuts of the page
    if (event.key === "Enter") this.next(event.shiftKey ? -1 : 1);
    if (event.key === "Escape") {
      this.query.value = "";
      this.find();
      this.frame.focus();
    }
  }

  actions(event) {
    const { session, main } = this;
    const walk = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (walk && event.shiftKey) return walk[0] ? () => session.setStep(session.step + walk[0]) : null;
    if (walk) return () => main.step(...walk);
    const chosen = main.context.selected;
    return {
      "/": () => this.query.focus(),
      "?": () => this.keys(),
      "+": () => main.zoom(1.25),
      "=": () => main.zoom(1.25),
      "-": () => main.zoom(0.8),
      f: () => main.fit(),
      c: chosen && !chosen.group ? () => session.pick(session.selected.index) : null,
      o: () => this.outline.toggle(),
      p: () => session.setUnfold(!session.unfold),
      w: () => ((session.wide = !session.wide), session.repaint(), this.told("colour")),
      x: () => session.setOpen(session.openIds.length < 3),
      b: () => this.light("before"),
      d: () => this.light("after"),
      1: () => this.light(1),
      2: () => this.light(2),
      3: () => this.light(3),
      Enter: chosen?.group ? () => session.toggle(chosen) : null,
      Escape: () => (session.light(null), session.select(null)),
    }[event.key];
  }

  // -------------------------------------------------------------- telling

  told(what) {
    if (what === "move") this.map?.frameMoved();
    if (["paint", "style", "load"].includes(what)) {
      this.tell();
      this.map?.repaint();
    }
    if (what === "step") {
      this.showSides();
      this.main.seeMarks();
    }
    if (what === "select") this.report("selected", this.selection());
    if (what === "step") this.report("step", this.session.step);
    if (what === "pick") this.report("picked", this.session.picked);
    if (["step", "open", "colour", "select"].includes(what)) this.reportLook();
    if (what === "move") this.reportLook(900);
  }

  /** At step 0 there is no before. */
  showSides() {
    for (const [at, pane] of this.panes.entries()) {
      pane.frame.hidden = pane.side === "before" && this.session.step === 0;
      this.heads.children[at].hidden = pane.frame.hidden;
    }
    if (!this.slider) return;
    this.slider.value = this.session.step;
    const [name, first] = [this.session.model.steps[this.session.step], this.session.model.steps[0] === "captured"];
    this.stepName.textContent = !first ? name : this.session.step ? `${this.session.step}. ${name}` : "as captured"; // two graphs beside each other are no pipeline
  }

  selection() {
    const { selected, model } = this.session;
    return selected && !selected.group ? { name: model.name[selected.index], side: selected.side, step: this.session.step } : null;
  }

  tell() {
    const { session } = this;
    const { model, scene, tree, step } = session;
    let alive = 0;
    for (let index = 0; index < model.count; index++) if (model.alive(index, step)) alive += 1;
    const drawn = scene.items.filter((item) => this.main.context.status.get(item).status !== "absent").length;
    const folded = [...tree.folded].filter((index) => model.alive(index, step)).length;
    const chosen = session.selected ? `${session.selected.group ? session.scene.byId.get(session.selected.group)?.label || "group" : model.title(session.selected.index)} selected · ` : "";
    this.status.textContent = `${chosen}${drawn.toLocaleString("en")} items shown of ${alive.toLocaleString("en")} nodes${folded ? `, ${folded.toLocaleString("en")} parameters and constants in their readers` : ""}`;
    this.showLegend(this.main.context.colouring.legend);
  }

  showLegend(legend) {
    this.legend.replaceChildren();
    this.legend.hidden = !legend;
    if (!legend) return;
    make(this.legend, "b", {}, legend.title);
    if (legend.ramp) {
      const ramp = make(this.legend, "span", { class: "ramp", style: `background: linear-gradient(90deg, ${legend.ramp.join(", ")})` });
      make(this.legend, "span", {}, legend.low);
      this.legend.insertBefore(this.legend.lastChild, ramp);
      make(this.legend, "span", {}, legend.high);
    }
    for (const [word, tone, count] of legend.words || []) {
      const entry = make(this.legend, "span", { class: "entry" });
      make(entry, "i", { style: `background: ${tone}` });
      make(entry, "span", {}, `${word} ${count.toLocaleString("en")}`);
    }
    make(this.legend, "em", {}, `${legend.have.toLocaleString("en")} of ${legend.total.toLocaleString("en")} nodes carry a value${legend.ramp ? "; a closed group shows what is inside together" : ""}`);
  }

  /** The look as a link carries it, a little after the last change. */
  reportLook(delay = 400) {
    clearTimeout(this.later);
    this.later = setTimeout(() => this.report("look", JSON.stringify(this.look())), delay);
  }

  look() {
    const { session } = this;
    const { at, model, selected } = session;
    return {
      of: this.payload.digest,
      step: session.step,
      open: session.openIds.slice(0, 80),
      at: { x: Math.round(at.x), y: Math.round(at.y), scale: Number(at.scale.toFixed(3)) },
      ...(session.colour !== "kind" && { colour: session.colour }),
      ...(session.unfold && { unfold: true }),
      ...(session.wide && { wide: true }),
      ...(selected && !selected.group && { selected: model.name[selected.index] }),
    };
  }
}
