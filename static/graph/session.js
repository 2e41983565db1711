// One graph (or one pipeline of graphs) on screen: what is open, selected, lit and coloured, and where the camera is.
// Several panes show the same session, each its own side of a step; whatever one of them changes, all of them follow.
const version = new URL(import.meta.url).search;
const { Model } = await import(`./model.js${version}`);
const { buildTree, everyGroup, openFirst, shownFor } = await import(`./tree.js${version}`);
const { placeAll, unpack } = await import(`./layout.js${version}`);
const { edgeBytes, liveEdges, liveStubs, makeScene, markedGroups, statuses } = await import(`./scene.js${version}`);
const { colouring, inkOn } = await import(`./colour.js${version}`);
const { kin } = await import(`./find.js${version}`);

const LIGHT = 400; // as many visible items are laid out on the page's thread: the worker's post would take longer

export class Session {
  /** `settings`: step, open (ids of groups), unfold, colour, wide, selected {name, side}; all optional, as a link carries them. */
  constructor(payload, settings = {}) {
    this.payload = payload;
    this.model = new Model(payload);
    this.panes = [];
    this.step = Math.min(settings.step ?? this.model.steps.length - 1, this.model.steps.length - 1);
    this.colour = settings.colour || "kind";
    this.wide = Boolean(settings.wide);
    this.unfold = Boolean(settings.unfold);
    this.at = { x: 0, y: 0, scale: 1 };
    this.selected = null;
    this.hovered = null;
    this.lit = null; // indexes that stand out, or null
    this.chosen = new Set(); // names of nodes that the page works with: several at once, unlike the selected one
    this.memo = new Map();
    this.request = 0;
    this.noWorker = import.meta.url.startsWith("blob:"); // in an exported page there is no file to start one from
    this.grow(settings.open, settings.marksToo);
  }

  /** The tree anew: at first, and when parameters are folded or unfolded. */
  grow(open, marksToo = false) {
    this.tree = buildTree(this.model, { unfold: this.unfold });
    if (open) {
      const wanted = new Set(open);
      everyGroup(this.tree.root, (box) => (box.open = wanted.has(box.id)));
      this.tree.root.open = true;
      if (marksToo) openFirst(this.tree.root, new Set([...this.marks("before"), ...this.marks("after")]), 0);
    } else this.openAtFirst();
    this.worker?.terminate();
    this.worker = null;
  }

  openAtFirst() {
    everyGroup(this.tree.root, (box) => (box.open = false));
    const marked = new Set([...this.marks("before"), ...this.marks("after")]);
    openFirst(this.tree.root, marked);
  }

  marks(side) {
    return this.step || side === "after" ? markedGroups(this.model, this.tree, this.step, side) : [];
  }

  get openIds() {
    const ids = [];
    everyGroup(this.tree.root, (box) => box.open && ids.push(box.id));
    return ids;
  }

  /** The graph that a side shows, by number. */
  graphOf(side) {
    return side === "before" ? Math.max(0, this.step - 1) : this.step;
  }

  // -------------------------------------------------------------- layout

  /** Lays out what is open and paints. Large trees go through the worker, and only the newest answer counts. */
  async arrange(open = this.openIds) {
    const request = ++this.request;
    const wanted = new Set(open);
    if (this.visibleCount(wanted) <= LIGHT || typeof Worker === "undefined" || this.noWorker) {
      everyGroup(this.tree.root, (box) => (box.open = wanted.has(box.id)));
      placeAll(this.tree.root, this.model, this.memo);
    } else {
      const packed = await this.ask(request, open);
      if (request !== this.request) return false;
      everyGroup(this.tree.root, (box) => (box.open = wanted.has(box.id)));
      unpack(this.tree.root, packed);
    }
    this.scene = makeScene(this.model, this.tree);
    this.repaint();
    return true;
  }

  visibleCount(wanted) {
    let count = 0;
    const walk = (box) => {
      count += box.children.length;
      for (const child of box.children) if (child.group && wanted.has(child.id)) walk(child);
    };
    walk(this.tree.root);
    return count;
  }

  ask(request, open) {
    if (!this.worker) {
      this.worker = new Worker(new URL(`./layout_worker.js${version}`, import.meta.url), { type: "module" });
      this.ready = new Promise((resolve, reject) => {
        this.worker.onmessage = resolve;
        this.worker.onerror = reject;
      });
      this.answers = new Map();
      this.ready.then(
        () => {
          this.worker.onmessage = ({ data }) => this.answers.get(data.request)?.(data.packed);
          this.worker.postMessage({ load: this.payload, options: { unfold: this.unfold } });
        },
        () => (this.noWorker = true),
      );
    }
    return this.ready.then(
      () =>
        new Promise((resolve) => {
          this.answers.clear(); // older requests are never answered
          this.answers.set(request, resolve);
          this.worker.postMessage({ request, open });
        }),
    );
  }

  // -------------------------------------------------------------- what is seen

  /** Everything a painter needs to know besides the scene. */
  context(side) {
    const { tree, scene } = this;
    const at = this.graphOf(side);
    const model = this.model.seen(at);
    const live = new Map();
    const most = this.wide ? Math.max(1, ...scene.edges.map((edge) => edgeBytes(model, edge.edges))) : 0;
    const width = (numbers) => (this.wide ? 0.8 + 9 * Math.sqrt(edgeBytes(model, numbers) / most) : Math.min(4, 1.1 + Math.log2(numbers.length) * 0.45));
    return {
      ...{ model, side, at, inkOn, edgeWidth: width, outputs: model.outputs[at] },
      status: statuses(model, tree, scene, this.step, side),
      colouring: colouring(model, tree, this.colour, at),
      stubs: (item, way) => liveStubs(model, item[way], this.step, side),
      edgeLive: (edge) => {
        if (!live.has(edge)) live.set(edge, liveEdges(model, edge.edges, this.step, side).length > 0);
        return live.get(edge);
      },
      ...this.focusOf(side),
    };
  }

  /** Selection, its neighbours and what is lit, as seen by one side. */
  focusOf(side) {
    const at = this.graphOf(side);
    const items = (indexes) => new Set(indexes.map((index) => this.shown(index)).filter(Boolean));
    const focus = { selected: null, near: new Set(), hover: null, strong: [], lit: null };
    focus.chosen = items([...this.chosen].map((name) => this.model.find(name, at)).filter((index) => index >= 0));
    if (this.hovered !== null) focus.hover = items(kin(this.model, this.hovered, at)).values().next().value || null;
    if (this.lit) {
      focus.lit = items([...this.lit].flatMap((index) => kin(this.model, index, at)));
      for (const item of [...focus.lit]) for (let box = item.parent; box; box = box.parent) focus.lit.add(box);
    }
    const { selected } = this;
    if (!selected) return focus;
    if (selected.group) return { ...focus, selected: this.scene.byId.get(selected.group) || null };
    const here = this.model.alive(selected.index, at) ? [selected.index] : kin(this.model, selected.index, at);
    if (here.length !== 1 || here[0] !== selected.index) return { ...focus, near: items(here) };
    const self = this.shown(selected.index);
    if (!self) return focus;
    focus.selected = self;
    const link = (indexes, way) => {
      for (const item of [...items(indexes)].slice(0, 60)) {
        if (item === self) continue;
        focus.near.add(item);
        focus.strong.push(way === "reads" ? { from: item, to: self, way } : { from: self, to: item, way });
      }
    };
    link(this.model.around(selected.index, at, "inputs"), "reads");
    link(this.model.around(selected.index, at, "users"), "feeds");
    return focus;
  }

  /** The leaf that stands for a node: for a folded parameter its first reader. */
  leafOf(index) {
    if (this.tree.leaves[index]) return this.tree.leaves[index];
    const reader = this.model.users[index].find((edge) => this.tree.leaves[edge.to]);
    return reader ? this.tree.leaves[reader.to] : null;
  }

  /** The visible item that stands for a node. */
  shown(index) {
    const leaf = this.leafOf(index);
    return leaf && shownFor(leaf);
  }

  repaint() {
    for (const pane of this.panes) pane.paint();
    this.told?.("paint");
  }

  restyle() {
    for (const pane of this.panes) pane.restyle();
    this.told?.("style");
  }

  move(at) {
    this.at = at;
    for (const pane of this.panes) pane.camera();
    this.told?.("move");
  }

  // -------------------------------------------------------------- what a reader does

  select(item, side) {
    this.selected = item ? (item.group ? { group: item.id, side } : { index: item.index, side }) : null;
    this.restyle();
    this.told?.("select");
  }

  selectIndex(index, side) {
    this.selected = { index, side };
    this.restyle();
    this.told?.("select");
  }

  hover(item) {
    const index = item && !item.group ? item.index : null;
    if (index === this.hovered) return;
    this.hovered = index;
    for (const pane of this.panes) pane.restyle();
  }

  /** Opens or closes a group; its corner stays where it is on the screen. */
  async toggle(box) {
    const { left, top } = box;
    const open = new Set(this.openIds);
    if (open.has(box.id)) open.delete(box.id);
    else open.add(box.id);
    if (!(await this.arrange([...open]))) return;
    const { scale } = this.at;
    this.move({ scale, x: this.at.x + (left - box.left) * scale, y: this.at.y + (top - box.top) * scale });
    this.told?.("open");
  }

  async setOpen(every) {
    const ids = [];
    everyGroup(this.tree.root, (box) => (every || box === this.tree.root) && ids.push(box.id));
    await this.arrange(ids);
    this.told?.("open");
  }

  async setUnfold(unfold) {
    const open = this.openIds;
    this.unfold = unfold;
    this.grow(open);
    await this.arrange();
    this.told?.("open");
  }

  setStep(step) {
    this.step = Math.max(0, Math.min(this.model.steps.length - 1, step));
    this.repaint();
    this.told?.("step");
  }

  setColour(name) {
    this.colour = name;
    this.restyle();
    this.told?.("colour");
  }

  /** Asks the page to take a node among the chosen ones, or out of them; the page answers with `choose`. */
  pick(index) {
    this.picked = { name: this.model.name[index], count: (this.picked?.count || 0) + 1 };
    this.told?.("pick");
  }

  choose(names) {
    if (names.length === this.chosen.size && names.every((name) => this.chosen.has(name))) return;
    this.chosen = new Set(names);
    this.restyle();
  }

  light(indexes) {
    this.lit = indexes;
    this.restyle();
  }

  /** Opens what hides a node; returns its item once it is laid out. */
  async reveal(index) {
    const leaf = this.leafOf(index);
    if (!leaf) return null;
    const open = new Set(this.openIds);
    const before = open.size;
    for (let box = leaf.parent; box; box = box.parent) open.add(box.id);
    if (open.size > before) {
      await this.arrange([...open]);
      this.told?.("open");
    }
    return leaf;
  }
}
