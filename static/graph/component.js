// What Streamlit calls. The graph travels alone (`keep`), once; the view (`show`) names it by its digest and carries what is small.
const version = new URL(import.meta.url).search;
const { View } = await import(`./view.js${version}`);

const KEPT = 6;
const payloads = new Map(); // digest -> payload; the few newest
const waiting = new Map(); // digest -> views that want it
const views = new WeakMap();
const named = new Map(); // pane -> view
const wishes = new Map(); // pane -> the last wish that was granted

/** Receives a graph: JSON with its digest, compressed with gzip. */
export async function keep({ data }) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
  const payload = await new Response(stream).json();
  payloads.delete(payload.digest); // to the end of the line
  payloads.set(payload.digest, payload);
  if (payloads.size > KEPT) payloads.delete(payloads.keys().next().value);
  for (const act of waiting.get(payload.digest) || []) act();
  waiting.delete(payload.digest);
}

/** Called at mount and whenever data or theme change. */
export function show({ parentElement, data, setStateValue }) {
  const frame = parentElement.querySelector(".graph-view");
  let view = views.get(parentElement);
  if (!view) {
    const css = [...parentElement.querySelectorAll("style")].map((style) => style.textContent).join("\n");
    views.set(parentElement, (view = new View(frame, { css, titles: data.titles })));
  }
  view.report = (name, value) => {
    if (name === "step") setStateValue("walk", { step: value, turn: wishes.get(data.pane) || 0 });
    else setStateValue(name, value);
  };
  named.set(data.pane, view);
  frame.style.height = typeof data.height === "number" ? `${data.height}px` : data.height;
  if (view.digest === data.digest) {
    if (view.session) view.session.repaint(); // the theme may have changed
    return;
  }
  view.digest = data.digest;
  const load = () => view.digest === data.digest && view.load(payloads.get(data.digest), data.look || {});
  if (payloads.get(data.digest)) load();
  else waiting.set(data.digest, [...(waiting.get(data.digest) || []), load]);
}

/** Shows a node, or a step, that was chosen elsewhere on the page; `turn` tells a new wish from an old one. */
export function wish({ data }) {
  mark(data, 100);
  if (!data.turn || wishes.get(data.pane) === data.turn) return;
  wishes.set(data.pane, data.turn);
  grant(data, 100);
}

/** Marks the nodes that the page holds as chosen, as soon as the picture is there. */
function mark(data, patience) {
  const view = named.get(data.pane);
  if (view?.session?.scene && view.payload.digest === data.of) view.session.choose(data.chosen || []);
  else if (patience) setTimeout(() => mark(data, patience - 1), 100);
}

/** As soon as the picture that is meant is there; a newer wish ends an older one. */
function grant(data, patience) {
  if (wishes.get(data.pane) !== data.turn || !patience) return;
  const view = named.get(data.pane);
  if (!view?.session?.scene || view.payload.digest !== data.of) {
    setTimeout(() => grant(data, patience - 1), 100);
    return;
  }
  if (data.step !== null && data.step !== view.session.step) view.session.setStep(data.step);
  if (data.find) view.search(data.find);
  else if (data.name) view.goToName(data.name);
}
