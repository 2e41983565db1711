// The graph as the picture knows it: the union of the graphs of all steps, decoded from one payload.
// Written by pages/ui/graph_view/drawing.py; read here, in the worker and in exported files.

export const KINDS = ["op", "matmul", "view", "parameter", "input", "constant"];
const TEXTS = ["label", "target", "shape", "dtype"];
const NUMBERS = ["bytes", "moved", "flops", "intensity"];
export const STATUSES = ["absent", "kept", "added", "removed", "changed", "fused"];

/** Columns of the union graph. A node lives in the graphs `first[i]`…`last[i]`; so does an edge. */
export class Model {
  constructor(data) {
    const text = (indexes) => indexes.map((index) => data.strings[index]);
    const { nodes } = data;
    this.steps = data.steps;
    this.phases = data.phases;
    this.count = nodes.name.length;
    for (const column of ["name", "module", "role", "source", ...TEXTS]) this[column] = text(nodes[column]);
    this.phase = nodes.phase;
    this.kind = nodes.kind;
    this.first = nodes.first;
    this.last = nodes.last;
    this.origins = nodes.origins;
    this.values = data.values;
    const { earlier } = data;
    this.earlier = { ...earlier, ...Object.fromEntries(TEXTS.map((column) => [column, text(earlier[column])])) };
    this.rowsOf = new Map();
    earlier.index.forEach((index, row) => this.rowsOf.set(index, [...(this.rowsOf.get(index) || []), row]));
    this.peaks = data.peaks;
    this.views = new Map();
    this.places = new Set(data.places);
    this.outputs = data.outputs.map((indexes) => new Set(indexes));
    this.changed = data.changed.map((indexes) => new Set(indexes));
    this.fused = data.fused.map((indexes) => new Set(indexes));
    this.edges = edgesOf(data.edges, this.first, this.last);
    this.inputs = Array.from({ length: this.count }, () => []);
    this.users = Array.from({ length: this.count }, () => []);
    this.edges.forEach((edge) => {
      this.inputs[edge.to].push(edge);
      this.users[edge.from].push(edge);
    });
    this.byName = new Map();
    for (let index = 0; index < this.count; index++) {
      const known = this.byName.get(this.name[index]);
      if (known) known.push(index);
      else this.byName.set(this.name[index], [index]);
    }
    refuseCycles(this);
  }

  /** The same model with every node as it is in graph number `at`; columns say otherwise what it is in the last graph that has it. */
  seen(at) {
    if (!this.views.has(at)) this.views.set(at, this.seenIn(at));
    return this.views.get(at);
  }

  seenIn(at) {
    const view = Object.create(this);
    const { earlier } = this;
    const rows = [];
    for (let row = earlier.index.length - 1; row >= 0; row--) if (at <= earlier.until[row] && this.alive(earlier.index[row], at)) rows.push(row);
    const column = (name, old) => {
      const found = old.slice();
      for (const row of rows) found[earlier.index[row]] = earlier[name][row]; // the oldest that still holds comes last
      return found;
    };
    view.values = { ...this.values, peak: this.values.peak.slice() };
    for (let i = 0; i < this.peaks[at].length; i += 2) view.values.peak[this.peaks[at][i]] = this.peaks[at][i + 1];
    if (!rows.length) return view;
    for (const name of [...TEXTS, "kind"]) view[name] = column(name, this[name]);
    for (const name of NUMBERS) view.values[name] = column(name, this.values[name]);
    return view;
  }

  /** `f32 4×64`; empty where a node's output is no tensor. */
  typeText(index) {
    return typeOf(this, index);
  }

  /** The two lines of a node's box, in every graph that has other ones. */
  lines(index) {
    const older = (this.rowsOf.get(index) || []).map((row) => [this.earlier.label[row], typeOf(this.earlier, row)]);
    return [[this.label[index], typeOf(this, index)], ...older];
  }

  /** A name that stays the same when the pipeline grows; told apart where a name came back. */
  key(index) {
    const same = this.byName.get(this.name[index]);
    return same.length > 1 ? `${this.name[index]}@${this.first[index]}` : this.name[index];
  }

  /** What a reader knows a node by: a parameter's or buffer's own name, `input 0`, and of all others the node's name. */
  title(index) {
    if (["parameter", "buffer"].includes(this.role[index])) return this.target[index];
    return ["input", "seed"].includes(this.role[index]) ? this.label[index] : this.name[index];
  }

  /** Is the node part of graph number `at`? */
  alive(index, at) {
    return this.first[index] <= at && at <= this.last[index];
  }

  /** The node of that name in graph number `at`, or -1. */
  find(name, at) {
    const found = (this.byName.get(name) || []).find((index) => this.alive(index, at));
    return found === undefined ? -1 : found;
  }

  /** What a step did to a node, as one of its two sides shows it; `step` 0 is the graph as captured. */
  status(index, step, side) {
    const at = side === "before" ? step - 1 : step;
    if (side === "before" && this.alive(index, at)) {
      if (this.last[index] === at) return "removed";
      return this.changed[step].has(index) ? "changed" : "kept";
    }
    if (side === "after" && this.alive(index, at)) {
      if (step && this.first[index] === step) return this.fused[step].has(index) ? "fused" : "added";
      return step && this.changed[step].has(index) ? "changed" : "kept";
    }
    return side === "after" && step && this.last[index] === step - 1 ? "removed" : "absent";
  }

  /** Inputs (or users) of a node in one graph, each edge once per read. */
  around(index, at, side) {
    const edges = side === "inputs" ? this.inputs[index] : this.users[index];
    return edges.filter((edge) => edge.first <= at && at <= edge.last).map((edge) => (side === "inputs" ? edge.from : edge.to));
  }
}

const typeOf = (columns, at) => (columns.shape[at] ? `${columns.dtype[at]} ${columns.shape[at]}` : "");

function edgesOf(flat, first, last) {
  const edges = [];
  for (let i = 0; i < flat.length; i += 4) {
    const [from, to, begin, end] = flat.slice(i, i + 4);
    const apart = Math.max(begin, first[from], first[to]) > Math.min(end, last[from], last[to]);
    if (apart) throw new Error(`edge ${from} → ${to} joins nodes that are never in one graph`);
    edges.push({ from, to, first: begin, last: end });
  }
  return edges;
}

/** Every single graph must be free of cycles; the union may have one, which the layout breaks. */
function refuseCycles(model) {
  for (let at = 0; at < model.steps.length; at++) {
    const waiting = new Int32Array(model.count);
    const live = (edge) => edge.first <= at && at <= edge.last;
    for (const edge of model.edges) if (live(edge)) waiting[edge.to] += 1;
    const ready = [];
    let left = 0;
    for (let index = 0; index < model.count; index++) {
      if (!model.alive(index, at)) continue;
      left += 1;
      if (!waiting[index]) ready.push(index);
    }
    while (ready.length) {
      left -= 1;
      for (const edge of model.users[ready.pop()]) if (live(edge) && !--waiting[edge.to]) ready.push(edge.to);
    }
    if (left) {
      const name = model.name[waiting.findIndex((count) => count > 0)];
      throw new Error(`the graph has a cycle through ${name}; a dataflow graph cannot have one`);
    }
  }
}
