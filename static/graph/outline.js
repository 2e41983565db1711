// The graph as an ordered tree of text, for keyboard and screen reader (ARIA tree view): groups, and nodes in the order of execution.

export class Outline {
  constructor(frame, session, onChoose) {
    Object.assign(this, { session, onChoose });
    this.list = document.createElement("ul");
    this.list.className = "outline";
    this.list.setAttribute("role", "tree");
    this.list.setAttribute("aria-label", "Outline of the graph");
    this.list.hidden = true;
    frame.append(this.list);
    this.list.addEventListener("click", (event) => this.click(event));
    this.list.addEventListener("keydown", (event) => this.key(event));
  }

  toggle() {
    this.list.hidden = !this.list.hidden;
    if (this.list.hidden) return;
    this.fill();
    this.list.querySelector("li")?.focus();
  }

  fill() {
    this.list.replaceChildren();
    this.rows(this.list, this.session.tree.root, 1);
    const first = this.list.querySelector("li");
    if (first) first.tabIndex = 0;
  }

  rows(list, box, level) {
    const { model, step } = this.session;
    const children = [...box.children].sort((a, b) => firstIndex(a) - firstIndex(b));
    for (const item of children) {
      if (!item.group && !model.alive(item.index, step)) continue;
      const row = document.createElement("li");
      row.setAttribute("role", "treeitem");
      row.setAttribute("aria-level", level);
      row.tabIndex = -1;
      row.item = item;
      const text = document.createElement("span");
      text.textContent = item.group ? `${item.label}${item.repeat ? ` ×${item.repeat}` : ""} · ${item.count} ops` : this.line(item);
      row.append(text);
      if (item.group) row.setAttribute("aria-expanded", "false");
      list.append(row);
    }
  }

  line(item) {
    const { step } = this.session;
    const model = this.session.model.seen(step);
    const inputs = model.around(item.index, step, "inputs").map((index) => model.name[index]);
    const type = model.typeText(item.index);
    const shape = type && `, ${type}`;
    const status = model.status(item.index, step, "after");
    return `${model.name[item.index]}: ${model.label[item.index]}${shape}${inputs.length ? `, reads ${inputs.join(", ")}` : ""}${status === "kept" ? "" : ` (${status})`}`;
  }

  expand(row, open) {
    if (!row.item.group || (row.getAttribute("aria-expanded") === "true") === open) return;
    row.setAttribute("aria-expanded", String(open));
    row.querySelector("ul")?.remove();
    if (!open) return;
    const list = document.createElement("ul");
    list.setAttribute("role", "group");
    row.append(list);
    this.rows(list, row.item, Number(row.getAttribute("aria-level")) + 1);
  }

  click(event) {
    const row = event.target.closest("li");
    if (!row) return;
    this.focus(row);
    if (row.item.group) this.expand(row, row.getAttribute("aria-expanded") !== "true");
    else this.onChoose(row.item.index);
  }

  focus(row) {
    for (const other of this.list.querySelectorAll('li[tabindex="0"]')) other.tabIndex = -1;
    row.tabIndex = 0;
    row.focus();
  }

  key(event) {
    const rows = [...this.list.querySelectorAll("li")];
    const at = rows.indexOf(event.target.closest("li"));
    const row = rows[at];
    const open = row.getAttribute("aria-expanded") === "true";
    const moves = {
      ArrowDown: () => rows[at + 1],
      ArrowUp: () => rows[at - 1],
      Home: () => rows[0],
      End: () => rows[rows.length - 1],
      ArrowRight: () => (row.item.group && !open ? this.expand(row, true) : rows[at + 1]),
      ArrowLeft: () => (open ? this.expand(row, false) : row.parentElement.closest("li")),
    };
    if (moves[event.key]) {
      const next = moves[event.key]();
      if (next) this.focus(next);
    } else if (event.key === "Enter" || event.key === " ") {
      if (row.item.group) this.expand(row, !open);
      else this.onChoose(row.item.index);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

const firstIndex = (item) => (item.group ? Math.min(...item.children.map(firstIndex)) : item.index);
