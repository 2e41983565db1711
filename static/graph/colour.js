// What a node's colour says: its phase, kind, dtype, role, or any number; with a legend and how many nodes carry a value.
const version = new URL(import.meta.url).search;
const { sizeText } = await import(`./scene.js${version}`);

// Twelve tones told apart in the three common colour deficiencies by lightness as well as hue.
const TONES = ["#3f76c4", "#d98c21", "#3b8660", "#a2559f", "#7f8896", "#c2453c", "#2aa5b8", "#8a6d3b", "#6b5bd2", "#93a832", "#d0659a", "#4a4f5a"];
const PHASES = { forward: "#2f5fa8", loss: "#c2792a", backward: "#b3392f", recompute: "#2b7a4b", update: "#7a5aa6" };
// From dark blue over green to yellow: lightness grows all the way (viridis, Smith and van der Walt 2015).
const RAMP = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725"];

const count = (value) => {
  for (const [limit, prefix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (value >= limit) return `${(value / limit).toPrecision(3)} ${prefix}`;
  return `${Number(value.toPrecision(3))} `;
};

// Milliseconds in the unit that suits them, as the pages write them.
const time = (value) => {
  for (const [scale, unit] of [[1e3, "s"], [1, "ms"], [1e-3, "µs"]]) if (value >= scale) return `${Number((value / scale).toPrecision(3))} ${unit}`;
  return `${Number((value * 1e6).toPrecision(3))} ns`;
};

export const COLOURINGS = {
  kind: { title: "kind" },
  phase: { title: "phase", column: (model, index) => model.phases[model.phase[index]] },
  dtype: { title: "dtype", column: (model, index) => model.dtype[index] },
  role: { title: "role", column: (model, index) => model.role[index] },
  recomputed: { title: "recomputed", column: (model, index) => (model.phases[model.phase[index]] === "recompute" ? "recomputed" : "once") },
  bytes: { title: "output size, counted", number: "bytes", write: sizeText },
  moved: { title: "bytes moved, counted", number: "moved", write: sizeText },
  flops: { title: "operations, counted", number: "flops", write: (value) => `${count(value)}FLOP` },
  intensity: { title: "operations per byte, counted", number: "intensity", write: (value) => `${count(value)}FLOP/B`, most: true },
  peak: { title: "memory held at the peak, counted", number: "peak", write: sizeText },
  time: { title: "time, measured", number: "time", write: time },
  predicted: { title: "time, predicted", number: "predicted", write: time },
};

export const hasValues = (model, name) => !COLOURINGS[name].number || Boolean(model.values[COLOURINGS[name].number]);

/**
 * A colouring of one graph: { fill(item) -> colour or null, legend }. A closed group has the sum of what is inside
 * (of operations per byte: the most).
 */
export function colouring(model, tree, name, at) {
  const chosen = COLOURINGS[name];
  if (!chosen || name === "kind" || !hasValues(model, name)) return { fill: () => null, legend: null };
  return chosen.column ? byWord(model, chosen, at) : byNumber(model, tree, chosen, at);
}

function byWord(model, chosen, at) {
  const seen = new Map();
  for (let index = 0; index < model.count; index++) {
    if (!model.alive(index, at)) continue;
    const word = chosen.column(model, index) || "none";
    seen.set(word, (seen.get(word) || 0) + 1);
  }
  const words = [...seen.keys()].sort((a, b) => seen.get(b) - seen.get(a));
  const tone = new Map(words.map((word, index) => [word, PHASES[word] || TONES[index % TONES.length]]));
  const total = [...seen.values()].reduce((sum, number) => sum + number, 0);
  return {
    fill: (item) => (item.group ? null : tone.get(chosen.column(model, item.index) || "none")),
    legend: { title: chosen.title, words: words.map((word) => [word, tone.get(word), seen.get(word)]), have: total, total },
  };
}

function byNumber(model, tree, chosen, at) {
  const values = model.values[chosen.number];
  let [have, total, low, high] = [0, 0, Infinity, 0];
  for (let index = 0; index < model.count; index++) {
    if (!model.alive(index, at) || !tree.leaves[index]) continue;
    total += 1;
    if (values[index] === null) continue;
    have += 1;
    if (values[index] > 0) [low, high] = [Math.min(low, values[index]), Math.max(high, values[index])];
  }
  const of = (item) => {
    if (!item.group) return model.alive(item.index, at) ? values[item.index] : null;
    const inside = item.children.map(of).filter((value) => value !== null);
    if (!inside.length) return null;
    return chosen.most ? Math.max(...inside) : inside.reduce((sum, value) => sum + value, 0);
  };
  const span = Math.log(high / low) || 1; // values reach over many orders: the scale is logarithmic
  const share = (value) => Math.min(1, Math.max(0, Math.log(value / low) / span));
  return {
    fill: (item) => {
      if (item.group && item.open) return null;
      const value = of(item);
      return value > 0 ? tint(share(value)) : null;
    },
    legend: { title: chosen.title, ramp: RAMP, low: high ? chosen.write(low) : "", high: high ? chosen.write(high) : "", have, total },
  };
}

function tint(share) {
  const at = share * (RAMP.length - 1);
  const [from, to] = [RAMP[Math.floor(at)], RAMP[Math.ceil(at)]].map((tone) => [1, 3, 5].map((i) => parseInt(tone.slice(i, i + 2), 16)));
  const mixed = from.map((value, i) => Math.round(value + (to[i] - value) * (at % 1)));
  return `#${mixed.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}

/** Black or white, whichever reads better on a colour. */
export function inkOn(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return r * 0.299 + g * 0.587 + b * 0.114 > 140 ? "#111418" : "#ffffff";
}
