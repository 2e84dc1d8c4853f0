// The picture with an overlay.

import { byId } from "./dom.js";

const TINY = 96; // pixels of a side, below which they are shown as squares

/** Shows an entry's image, and what a view draws on it. */
export class Viewer {
  constructor() {
    this.frame = byId("frame");
    this.image = byId("image");
    this.canvas = byId("overlay");
    this.unshown = byId("unshown");
    this.painter = null;
    this.size = [3, 2];
    this.entry = null;
    this.pending = false;
    this.onpoint = () => {};
    this.image.addEventListener("load", () => this.loaded());
    this.image.addEventListener("error", () => this.broken());
    new ResizeObserver(() => this.redraw()).observe(this.frame);
    const point = (event) => this.onpoint(this.position(event));
    this.canvas.addEventListener("pointermove", point);
    this.canvas.addEventListener("pointerdown", point);
    this.canvas.addEventListener("pointerleave", () => this.onpoint(null));
  }

  /** Show an entry's image without an overlay. */
  show(entry) {
    if (entry === this.entry) return;
    this.entry = entry;
    this.painter = null;
    this.unshown.hidden = true;
    this.image.hidden = false;
    if (entry) {
      this.image.alt = entry.name;
      this.image.src = entry.url;
    } else {
      this.image.removeAttribute("src");
    }
    this.redraw();
  }

  /** Draw on the image, of a width and height as the server sees it, whenever it is needed. */
  paint(painter, width, height) {
    this.painter = painter;
    this.resize(width, height);
    this.redraw();
  }

  loaded() {
    const { naturalWidth: width, naturalHeight: height } = this.image;
    if (this.entry) this.entry.pixels = width * height;
    if (!this.painter) this.resize(width, height);
  }

  /** Boxes and maps are shown on a blank where the browser cannot show the image itself. */
  broken() {
    if (!this.entry) return;
    const type = this.entry.file.type || "of an unknown type";
    this.image.hidden = true;
    this.unshown.hidden = false;
    this.unshown.lastElementChild.textContent = `This browser cannot show this image (${type}).`;
  }

  resize(width, height) {
    if (!width || !height) return;
    this.size = [width, height];
    this.frame.style.setProperty("--ratio", String(width / height));
    this.frame.classList.toggle("tiny", Math.max(width, height) <= TINY);
  }

  /** Draw before the browser paints next, once however often it is asked. */
  redraw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.draw();
    });
  }

  /** Coordinates are pixels of the image; the painter is given the size of a CSS pixel in them. */
  draw() {
    const dense = Math.min(window.devicePixelRatio || 1, 3);
    const { clientWidth, clientHeight } = this.frame;
    const [width, height] = [Math.round(clientWidth * dense), Math.round(clientHeight * dense)];
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.painter || !width) return;
    context.setTransform(width / this.size[0], 0, 0, height / this.size[1], 0, 0);
    this.painter(context, this.size[0] / clientWidth);
  }

  /** Scroll to the picture if it is out of sight, as on a small screen. */
  reveal() {
    this.frame.scrollIntoView({ block: "nearest" });
  }

  /** Where an event is on the image, in its pixels. */
  position(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.size[0],
      ((event.clientY - box.top) / box.height) * this.size[1],
    ];
  }
}
