// Predictions beside answers, and graphs that become live as soon as the reader comes near them.
const payloads = read("graphs");

/** Right: the same choice, or within a tenth of the number. */
function close(predicted, answer) {
  if (typeof answer === "string") return predicted === answer;
  return Math.abs(Number(predicted) - answer) <= Math.abs(answer) / 10;
}

for (const question of document.querySelectorAll(".question")) {
  const details = question.querySelector("details.answer");
  details.addEventListener("toggle", () => {
    const field = question.querySelector("input[type=number], input[type=radio]:checked");
    const said = question.querySelector(".said");
    const predicted = details.open && field ? field.value : "";
    const right = predicted !== "" && close(predicted, JSON.parse(question.dataset.answer));
    said.textContent = predicted === "" ? "" : `You predicted ${predicted}: ${right ? "right" : "not quite"}.`;
    said.className = predicted === "" ? "said" : right ? "said right" : "said wrong";
  });
}

document.getElementById("open-all").addEventListener("click", (event) => {
  const all = [...document.querySelectorAll("details.answer")];
  const open = all.some((one) => !one.open);
  for (const one of all) one.open = open;
  event.target.textContent = open ? "Close all answers" : "Open all answers";
});
document.getElementById("print").addEventListener("click", () => print());

const figures = [...document.querySelectorAll("figure.graph")];
if (figures.length) {
  const { View } = await import(fxscope["view.js"]);
  const css = document.querySelector("style").textContent;
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) { near.unobserve(target); liven(target); }
  }, { rootMargin: "600px" });

  async function liven(figure) {
    const [frame, explains, still, caption] = [".graph-view", ".explained", ".still", "figcaption"].map((name) => figure.querySelector(name));
    frame.hidden = false;
    const view = new View(frame, { css, report: (what, chosen) => { if (what === "selected") explains.textContent = explained(view, chosen); } });
    await view.load(payloads[figure.dataset.graph], { step: Number(figure.dataset.step) });
    still.hidden = true;
    explains.hidden = false;
    explains.textContent = "Click a node: it is explained here.";
    caption.textContent = caption.dataset.live;
    figure.dataset.live = "yes";
  }
  for (const figure of figures) near.observe(figure);
}
