// What is shown, as a file: SVG, PNG of any size, Graphviz DOT.
const version = new URL(import.meta.url).search;
const { SvgPainter, draw } = await import(`./svg.js${version}`);

const VARIABLES = ["--st-text-color", "--st-background-color", "--st-primary-color", "--st-blue-color", "--st-green-color", "--st-red-color", "--st-orange-color", "--st-font", "--st-border-color"];

/** The open picture as a standalone SVG: its own style sheet, colours written out. */
export function toSvg(pane, css) {
  const { scene } = pane.session;
  const holder = document.createElement("div");
  const svg = draw(holder, "svg", { xmlns: "http://www.w3.org/2000/svg", width: Math.ceil(scene.width), height: Math.ceil(scene.height), viewBox: `0 0 ${scene.width} ${scene.height}` });
  const style = getComputedStyle(pane.frame);
  const values = VARIABLES.map((name) => `${name}: ${style.getPropertyValue(name).trim()};`).join(" ");
  draw(svg, "style", {}, `svg { ${values} --ink: var(--st-text-color); --paper: var(--st-background-color); background: var(--paper); }\n${css}`);
  draw(svg, "rect", { width: "100%", height: "100%", style: `fill: ${style.getPropertyValue("--st-background-color").trim() || "#ffffff"}` });
  const painter = new SvgPainter(svg);
  painter.camera({ x: 0, y: 0, scale: 1 });
  painter.paint(scene, pane.context);
  return new XMLSerializer().serializeToString(svg);
}

/** The picture as PNG, `width` pixels wide. */
export async function toPng(pane, css, width) {
  const image = new Image();
  const address = URL.createObjectURL(new Blob([toSvg(pane, css)], { type: "image/svg+xml" }));
  try {
    image.src = address;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = Math.max(1, Math.round((image.height / image.width) * width));
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    if (!blob) throw new Error("This picture is too large for this browser: choose a smaller width, or close some groups.");
    return blob;
  } finally {
    URL.revokeObjectURL(address);
  }
}

const quoted = (text) => `"${String(text).replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n")}"`;

/** What is visible as Graphviz DOT: open groups are clusters, stubs are dashed edges. */
export function toDot(pane) {
  const { tree } = pane.session;
  const { model } = pane.context;
  const present = (item) => pane.context.status.get(item).status !== "absent";
  const lines = ["digraph fxscope {", '  node [shape=box, fontname="Helvetica"];', "  compound=true;"];
  let clusters = 0;
  const write = (box, indent) => {
    for (const item of box.children.filter(present)) {
      if (item.group && item.open) {
        lines.push(`${indent}subgraph cluster_${clusters++} {`, `${indent}  label=${quoted(item.label)};`);
        write(item, `${indent}  `);
        lines.push(`${indent}}`);
      } else {
        const [label, shape] = item.group ? [item.label, `${item.count} ops`] : [model.label[item.index], model.typeText(item.index)];
        lines.push(`${indent}${quoted(item.id)} [label=${quoted(`${label}\n${shape}`)}${item.group ? ", style=filled" : ""}];`);
      }
    }
  };
  write(tree.root, "  ");
  for (const [from, to, style] of visibleEdges(pane)) lines.push(`  ${quoted(from.id)} -> ${quoted(to.id)}${style};`);
  lines.push("}");
  return lines.join("\n");
}

/** Edges between what is visible, down to the items inside open groups. */
function visibleEdges(pane) {
  const { session } = pane;
  const found = new Map();
  const stubs = new Set(session.tree.stubs);
  session.model.edges.forEach((edge, number) => {
    const ends = [edge.from, edge.to].map((index) => session.tree.leaves[index] && session.shown(index));
    if (!ends[0] || !ends[1] || ends[0] === ends[1] || !pane.context.edgeLive({ edges: [number] })) return;
    found.set(`${ends[0].id}>${ends[1].id}`, [...ends, stubs.has(number) ? " [style=dashed]" : ""]);
  });
  return [...found.values()];
}

/** Offers a file to the reader. */
export function save(content, name) {
  const blob = content instanceof Blob ? content : new Blob([content]);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
