// Layout off the page's thread. One model per worker; a newer request ends an older one.
const version = new URL(import.meta.url).search;
const { Model } = await import(`./model.js${version}`);
const { buildTree, everyGroup } = await import(`./tree.js${version}`);
const { place, pack } = await import(`./layout.js${version}`);

const BREATH_MS = 12;
const memo = new Map();
let [model, tree, newest] = [null, null, 0];

const breathe = () => new Promise((resolve) => setTimeout(resolve));

async function answer({ request, open }) {
  const wanted = new Set(open);
  everyGroup(tree.root, (box) => (box.open = wanted.has(box.id)));
  let last = performance.now();
  for (const _ of place(tree.root, model, memo)) {
    if (performance.now() - last < BREATH_MS) continue;
    await breathe();
    if (request !== newest) return;
    last = performance.now();
  }
  const packed = pack(tree.root);
  postMessage({ request, packed }, [packed.boxes.buffer, packed.points.buffer, packed.counts.buffer]);
}

onmessage = ({ data }) => {
  if (data.load) {
    model = new Model(data.load);
    tree = buildTree(model, data.options);
    return;
  }
  newest = data.request;
  answer(data);
};
postMessage({ ready: true });
