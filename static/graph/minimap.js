// The whole picture in a corner, with the part on screen framed; drag the frame to move.

const [WIDTH, HEIGHT] = [120, 88];

export class Minimap {
  constructor(frame, session, pane) {
    Object.assign(this, { session, pane });
    this.canvas = document.createElement("canvas");
    this.canvas.className = "minimap";
    this.canvas.setAttribute("aria-hidden", "true");
    [this.canvas.width, this.canvas.height] = [WIDTH * 2, HEIGHT * 2];
    frame.append(this.canvas);
    const go = (event) => {
      if (!event.buttons) return;
      const box = this.canvas.getBoundingClientRect();
      this.goTo(event.clientX - box.left, event.clientY - box.top);
    };
    this.canvas.addEventListener("pointerdown", go);
    this.canvas.addEventListener("pointermove", go);
  }

  get scale() {
    const { scene } = this.session;
    return Math.min((WIDTH - 8) / scene.width, (HEIGHT - 8) / scene.height);
  }

  goTo(x, y) {
    const { at } = this.session;
    const [width, height] = this.pane.size;
    const [u, v] = [(x - 4) / this.scale, (y - 4) / this.scale];
    this.session.move({ scale: at.scale, x: width / 2 - u * at.scale, y: height / 2 - v * at.scale });
  }

  repaint() {
    const { scene } = this.session;
    this.picture = document.createElement("canvas");
    [this.picture.width, this.picture.height] = [WIDTH * 2, HEIGHT * 2];
    const pen = this.picture.getContext("2d");
    pen.setTransform(2 * this.scale, 0, 0, 2 * this.scale, 8, 8);
    const ink = getComputedStyle(this.pane.frame).getPropertyValue("--st-text-color").trim() || "#1d2430";
    for (const item of scene.items) {
      const { status } = this.pane.context.status.get(item);
      if (status === "absent") continue;
      pen.globalAlpha = item.group && item.open ? 0.06 : 0.45;
      pen.fillStyle = this.pane.context.colouring.fill(item) || { added: "#3b8660", fused: "#3b8660", changed: "#c2792a", removed: "#b3392f" }[status] || ink;
      pen.fillRect(item.left, item.top, item.width, item.height);
    }
    this.frameMoved();
  }

  frameMoved() {
    if (!this.picture) return;
    const { at, scene } = this.session;
    const [width, height] = this.pane.size;
    const all = scene.width * at.scale <= width && scene.height * at.scale <= height;
    this.canvas.hidden = all;
    const pen = this.canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, WIDTH * 2, HEIGHT * 2);
    pen.drawImage(this.picture, 0, 0);
    pen.strokeStyle = getComputedStyle(this.pane.frame).getPropertyValue("--st-primary-color").trim() || "#2f5fa8";
    pen.lineWidth = 3;
    const share = 2 * this.scale;
    pen.strokeRect(8 + (-at.x / at.scale) * share, 8 + (-at.y / at.scale) * share, (width / at.scale) * share, (height / at.scale) * share);
  }
}
