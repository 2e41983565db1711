// One side of a session on the screen: a stage with its painter, and what pointer and wheel do there.
const version = new URL(import.meta.url).search;
const { SvgPainter, draw } = await import(`./svg.js${version}`);
const { stubMarks } = await import(`./scene.js${version}`);
const { CanvasPainter } = await import(`./canvas.js${version}`);

const SVG_LIMIT = 1500; // visible items; above, canvas
const READABLE = 0.5;

export class Pane {
  constructor(frame, session, side, title) {
    Object.assign(this, { session, side });
    this.frame = document.createElement("div");
    this.frame.className = "stage";
    this.svg = draw(this.frame, "svg", { role: "img", "aria-label": title || "Graph" });
    this.canvas = document.createElement("canvas");
    this.canvas.hidden = true;
    this.frame.append(this.canvas);
    frame.append(this.frame);
    this.painters = { svg: new SvgPainter(this.svg), canvas: new CanvasPainter(this.canvas) };
    this.listen();
    session.panes.push(this);
  }

  get size() {
    return [this.frame.clientWidth, this.frame.clientHeight];
  }

  get painter() {
    return this.painters[this.session.scene.items.length > SVG_LIMIT ? "canvas" : "svg"];
  }

  paint() {
    const { painter, session } = this;
    const other = painter === this.painters.svg ? this.painters.canvas : this.painters.svg;
    other.clear();
    this.svg.toggleAttribute("hidden", painter !== this.painters.svg);
    this.canvas.hidden = painter !== this.painters.canvas;
    this.context = session.context(this.side);
    this.frame.dataset.side = this.side;
    painter.camera(session.at);
    painter.paint(session.scene, this.context);
  }

  restyle() {
    const { session } = this;
    Object.assign(this.context, session.focusOf(this.side));
    if (this.colour !== session.colour) this.context = session.context(this.side);
    this.colour = session.colour;
    this.painter.restyle(session.scene, this.context);
  }

  camera() {
    this.painter.camera(this.session.at);
  }

  // -------------------------------------------------------------- camera

  fit(smallest = 0.04) {
    const { scene } = this.session;
    const [width, height] = this.size;
    const scale = Math.max(smallest, Math.min(1.1, (width - 24) / scene.width, (height - 24) / scene.height));
    const x = scene.width * scale > width ? 12 : (width - scene.width * scale) / 2;
    this.session.move({ scale, x, y: Math.max(8, (height - scene.height * scale) / 2) });
  }

  /** Everything if it can be read; else the changes of the first phase that has any, from the uppermost on, or the top. */
  firstLook() {
    this.fit(READABLE);
    const { scene, tree, at } = this.session;
    const [width, height] = this.size;
    if (scene.height * at.scale <= height && scene.width * at.scale <= width) return;
    const marked = scene.items.filter((item) => this.isMarked(item));
    const phase = (item) => (item.parent === tree.root ? item : phase(item.parent));
    if (!marked.length) return;
    const lane = tree.root.phased ? marked.filter((item) => phase(item) === phase(marked[0])) : marked;
    const first = lane.reduce((a, b) => (b.top < a.top ? b : a));
    const [wide, high] = [width / READABLE, height / READABLE];
    this.frameOn(lane.filter((item) => item.top < first.top + high && item.left < first.left + wide && item.left + item.width > first.left - wide));
  }

  /** Keeps in place what was in the middle of the screen before, unless what is marked now would be out of sight. */
  stay(at, scene) {
    const { session } = this;
    const [width, height] = this.size;
    const distance = (item) => Math.hypot(item.left * at.scale + at.x - width / 2, item.top * at.scale + at.y - height / 2);
    const known = new Map(session.scene.items.map((item) => [item.id, item]));
    const old = scene.items.filter((item) => known.has(item.id)).sort((a, b) => distance(a) - distance(b))[0];
    if (!old) return this.firstLook();
    const now = known.get(old.id);
    session.move({ scale: at.scale, x: at.x + (old.left - now.left) * at.scale, y: at.y + (old.top - now.top) * at.scale });
    return this.seeMarks();
  }

  /** Where nothing that the step marked is in sight, goes to it. */
  seeMarks() {
    const { at, scene } = this.session;
    const [width, height] = this.size;
    const marked = scene.items.filter((item) => this.isMarked(item));
    const seen = ({ left, top }) => {
      const [x, y] = [left * at.scale + at.x, top * at.scale + at.y];
      return x > 0 && y > 20 && x < width - 40 && y < height - 40;
    };
    if (marked.length && !marked.some(seen)) this.firstLook();
  }

  isMarked(item) {
    const found = this.context.status.get(item);
    if (item.group) return !item.open && found.marks.length > 0;
    return found.place || !["kept", "absent"].includes(found.status);
  }

  /** Brings items into view, readable: their top when not all of them fit. */
  frameOn(items, largest = 1) {
    if (!items.length) return;
    const [width, height] = this.size;
    const [left, top] = [Math.min(...items.map((item) => item.left)), Math.min(...items.map((item) => item.top))];
    const wide = Math.max(...items.map((item) => item.left + item.width)) - left;
    const high = Math.max(...items.map((item) => item.top + item.height)) - top;
    const scale = Math.max(0.55, Math.min(largest, (width - 40) / wide, (height - 110) / high));
    const x = wide * scale > width - 40 ? 20 - left * scale : width / 2 - (left + wide / 2) * scale;
    this.session.move({ scale, x, y: Math.max(46, (height - high * scale) / 2) - top * scale });
  }

  centre(item) {
    const [width, height] = this.size;
    const scale = Math.max(this.session.at.scale, 0.8);
    this.session.move({ scale, x: width / 2 - (item.left + item.width / 2) * scale, y: height / 2 - (item.top + Math.min(item.height, 200) / 2) * scale });
  }

  zoom(factor, x = this.size[0] / 2, y = this.size[1] / 2) {
    const { at } = this.session;
    const scale = Math.min(3, Math.max(0.015, at.scale * factor));
    const grown = scale / at.scale;
    this.session.move({ scale, x: x - (x - at.x) * grown, y: y - (y - at.y) * grown });
  }

  // -------------------------------------------------------------- pointer

  place(event) {
    const box = this.frame.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  /** The topmost visible item under a place on the stage. */
  itemAt(px, py) {
    const { at, scene } = this.session;
    const [x, y] = [(px - at.x) / at.scale, (py - at.y) / at.scale];
    for (let i = scene.items.length - 1; i >= 0; i--) {
      const item = scene.items[i];
      if (x < item.left || x > item.left + item.width || y < item.top || y > item.top + item.height) continue;
      const { status, covered } = this.context.status.get(item);
      if (status !== "absent" && !covered) return item;
    }
    return null;
  }

  /** The labelled end of a far edge under a place on the stage. */
  stubAt(px, py) {
    const { at, scene } = this.session;
    const [x, y] = [(px - at.x) / at.scale, (py - at.y) / at.scale];
    for (let i = scene.items.length - 1; i >= 0; i--) {
      const item = scene.items[i];
      if (x < item.left - 8 || x > item.left + item.width + 8 || y < item.top - 12 || y > item.top + item.height + 12) continue;
      if (this.context.status.get(item).status === "absent") continue;
      const [u, v] = [x - item.left, y - item.top];
      const found = stubMarks(item, this.context).find((mark) => u >= mark.x && u <= mark.x + mark.width && v >= mark.y && v <= mark.y + mark.height);
      if (found) return found;
    }
    return null;
  }

  onToggle(item, px, py) {
    const { at } = this.session;
    const [x, y] = [(px - at.x) / at.scale - item.left, (py - at.y) / at.scale - item.top];
    return item.group && x >= 3 && x <= 28 && y >= 2 && y <= 27;
  }

  listen() {
    let drag = null;
    const { frame, session } = this;
    frame.addEventListener("pointerdown", (event) => (drag = { x: event.clientX, y: event.clientY, moved: false }));
    frame.addEventListener("pointermove", (event) => {
      if (!drag || !event.buttons) {
        session.hover(this.itemAt(...this.place(event)));
        return;
      }
      const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
      if (!drag.moved && Math.hypot(dx, dy) < 4) return;
      if (!drag.moved) frame.setPointerCapture(event.pointerId);
      drag = { x: event.clientX, y: event.clientY, moved: true };
      session.move({ ...session.at, x: session.at.x + dx, y: session.at.y + dy });
    });
    frame.addEventListener("pointerleave", () => session.hover(null));
    frame.addEventListener("click", (event) => {
      const moved = drag?.moved;
      drag = null;
      if (!moved) this.click(event);
    });
    frame.addEventListener("dblclick", (event) => {
      const [x, y] = this.place(event);
      const item = this.itemAt(x, y);
      if (item?.group && !this.onToggle(item, x, y)) session.toggle(item);
    });
    frame.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        if (event.shiftKey) session.move({ ...session.at, x: session.at.x - event.deltaY });
        else this.zoom(Math.exp(-event.deltaY * 0.0015), ...this.place(event));
      },
      { passive: false },
    );
  }

  click(event) {
    const { session } = this;
    const [x, y] = this.place(event);
    const mark = this.stubAt(x, y);
    if (mark) {
      this.follow(mark.stubs, mark.end);
      return;
    }
    const item = this.itemAt(x, y);
    if (item && this.onToggle(item, x, y)) session.toggle(item);
    else if (event.shiftKey && item && !item.group) this.onPath?.(item.index);
    else if ((event.ctrlKey || event.metaKey) && item && !item.group) session.pick(item.index);
    else session.select(item, this.side);
  }

  /** Goes to the other end of a stub; with several, to the next one at each click. */
  follow(stubs, end) {
    const ends = stubs.map((stub) => stub[end]);
    const last = ends.indexOf(this.followed);
    this.followed = ends[(last + 1) % ends.length];
    this.session.select(this.followed, this.side);
    this.centre(this.followed);
  }

  /** Selects the nearest visible item in a direction. */
  step(dx, dy) {
    const { session } = this;
    const middle = (item) => [item.left + item.width / 2, item.top + (item.open ? 10 : item.height / 2)];
    const seen = session.scene.items.filter((item) => !["absent"].includes(this.context.status.get(item).status));
    const here = this.context.selected;
    if (!here) return session.select(seen[0], this.side);
    const [x, y] = middle(here);
    let [best, least] = [null, Infinity];
    for (const item of seen) {
      const [u, v] = middle(item);
      const ahead = (u - x) * dx + (v - y) * dy;
      const aside = Math.abs((u - x) * dy) + Math.abs((v - y) * dx);
      if (item !== here && ahead > 2 && ahead + 2.5 * aside < least) [best, least] = [item, ahead + 2.5 * aside];
    }
    if (!best) return undefined;
    session.select(best, this.side);
    return this.keepInView(best);
  }

  keepInView(item) {
    const { at } = this.session;
    const [width, height] = this.size;
    const [left, top] = [item.left * at.scale + at.x, item.top * at.scale + at.y];
    if (left < 10 || top < 40 || left + item.width * at.scale > width - 10 || top + 30 > height - 20) this.centre(item);
  }
}
