// Finding nodes: words, regular expressions, `op:mm shape:768`, and connected patterns such as `softmax -> * -> mm`.

const FIELDS = { op: "label", shape: "shape", dtype: "dtype", module: "module", name: "name", role: "role", source: "source", target: "target" };
const ENOUGH = 10000;

/**
 * Nodes (or chains of nodes) of graph number `at` that a query describes.
 *
 * Returns { chains: [[index, …], …], problem }: a chain has one node for plain queries. `problem` says in words what is wrong.
 */
export function find(known, at, query) {
  const model = known.seen(at);
  const text = query.trim();
  if (!text) return { chains: [], problem: "" };
  const parts = text.split(/\s*->\s*/);
  const tests = [];
  for (const part of parts) {
    const made = part === "*" ? { test: () => true } : testOf(part, parts.length > 1);
    if (made.problem) return { chains: [], problem: made.problem };
    tests.push(made.test);
  }
  return { chains: chainsOf(model, at, tests), problem: "" };
}

/** Chains along edges: the first node passes the first test, one that reads it the second, and so on. */
function chainsOf(model, at, tests) {
  const passes = tests.map((test) => {
    const marks = new Uint8Array(model.count);
    for (let index = 0; index < model.count; index++) if (model.alive(index, at) && test(model, index)) marks[index] = 1;
    return marks;
  });
  // A node is worth starting from only if the rest of the chain can follow: marked backwards, each edge looked at once per test.
  for (let step = tests.length - 2; step >= 0; step--) {
    for (let index = 0; index < model.count; index++) {
      if (passes[step][index] && !model.around(index, at, "users").some((user) => passes[step + 1][user])) passes[step][index] = 0;
    }
  }
  const chains = [];
  const grow = (chain) => {
    if (chains.length >= ENOUGH) return;
    if (chain.length === tests.length) {
      chains.push(chain);
      return;
    }
    const next = new Set(model.around(chain[chain.length - 1], at, "users"));
    for (const user of next) if (passes[chain.length][user]) grow([...chain, user]);
  };
  for (let index = 0; index < model.count; index++) if (passes[0][index]) grow([index]);
  return chains;
}

/** One part of a query -> a test of a node. Inside a pattern a bare word is an op's exact name, as in `mm -> add`. */
function testOf(part, inPattern) {
  const expression = part.match(/^\/(.*)\/$/);
  if (expression) return byExpression(expression[1]);
  if (part.startsWith("/")) return { problem: "A regular expression ends with a slash: /conv[12]/" };
  const tests = [];
  for (const word of part.split(/\s+/).filter(Boolean)) {
    const [, field, value] = word.match(/^([a-z]+):(.+)$/) || [];
    if (field && !FIELDS[field]) return { problem: `There is no field “${field}”. There is: ${Object.keys(FIELDS).join(", ")}.` };
    if (field) tests.push(byField(FIELDS[field], value));
    else tests.push(inPattern ? byOp(word) : byText(word));
  }
  if (!tests.length) return { problem: "Between two arrows there is an op, or * for any: softmax -> * -> mm" };
  return { test: (model, index) => tests.every((test) => test(model, index)) };
}

function byExpression(source) {
  try {
    const expression = new RegExp(source, "i");
    return { test: (model, index) => expression.test(`${model.name[index]} ${model.target[index]} ${model.module[index]}`) };
  } catch (error) {
    return { problem: `This is no regular expression: ${error.message}` };
  }
}

function byField(column, value) {
  const wanted = value.toLowerCase().replaceAll("x", "×");
  if (column === "shape") return (model, index) => shapeMatches(model.shape[index], wanted);
  const plain = value.toLowerCase();
  if (column === "label") return byOp(value);
  // `model.py:12` is that line, not line 120
  if (column === "source" && /:\d+$/.test(value)) return (model, index) => model.source[index].toLowerCase().startsWith(`${plain} `);
  return (model, index) => String(model[column][index]).toLowerCase().includes(plain);
}

/** `768` is a dimension of the shape; `1×64×768` is a run of them. */
function shapeMatches(shape, wanted) {
  const text = `×${shape}×`;
  return shape !== "" && text.includes(`×${wanted}×`);
}

const bare = (name) => name.replace(/^_+/, "");

/** An op's name, with or without leading underscores: `softmax` finds `_softmax`, `mm` does not find `addmm`. */
function byOp(word) {
  const wanted = bare(word.toLowerCase());
  return (model, index) => bare(model.label[index].toLowerCase()) === wanted || model.target[index].toLowerCase() === word.toLowerCase();
}

function byText(word) {
  const wanted = word.toLowerCase();
  return (model, index) =>
    `${model.name[index]} ${model.target[index]} ${model.module[index]} ${model.role[index]} ${model.shape[index]} ${model.dtype[index]} ${model.source[index]}`
      .toLowerCase()
      .includes(wanted);
}

// ---------------------------------------------------------------- neighbourhoods

/** Nodes within `hops` steps of a node, along and against the edges; the node itself included. */
export function within(model, at, index, hops, sides = ["inputs", "users"]) {
  const found = new Set([index]);
  let edge = [index];
  for (let hop = 0; hop < hops && edge.length; hop++) {
    const next = [];
    for (const here of edge)
      for (const side of sides)
        for (const other of model.around(here, at, side)) {
          if (found.has(other)) continue;
          found.add(other);
          next.push(other);
        }
    edge = next;
  }
  return found;
}

export const ancestors = (model, at, index) => within(model, at, index, Infinity, ["inputs"]);
export const descendants = (model, at, index) => within(model, at, index, Infinity, ["users"]);

/** Every node on some path between two nodes, in either direction; empty when there is none. */
export function between(model, at, one, other) {
  for (const [from, to] of [
    [one, other],
    [other, one],
  ]) {
    const below = descendants(model, at, from);
    if (!below.has(to)) continue;
    const above = ancestors(model, at, to);
    return new Set([...below].filter((index) => above.has(index)));
  }
  return new Set();
}

/** Nodes of graph `to` that come from the same captured nodes as a given node of any step; itself, where it is still there. */
export function kin(model, index, to) {
  if (model.alive(index, to)) return [index];
  if (!model.byOrigin) {
    model.byOrigin = new Map();
    model.origins.forEach((origins, node) => {
      for (const origin of origins) {
        if (!model.byOrigin.has(origin)) model.byOrigin.set(origin, []);
        model.byOrigin.get(origin).push(node);
      }
    });
  }
  const found = new Set(model.origins[index].flatMap((origin) => model.byOrigin.get(origin)));
  return [...found].filter((node) => model.alive(node, to));
}
