// Images from files: chosen, dropped and pasted; and what the server would refuse is refused here.

import { byId, cross, make } from "./dom.js";

const MEGABYTE = 1e6;
const FORM = 1000; // bytes around a file in a form, with its name
export const MANY = 200;

/** Files of one type have several names, by the system that gives them; those with x- are left to the server. */
const plainType = (type) => type.toLowerCase().replace("image/x-ms-", "image/").replace("image/jpg", "image/jpeg");

/** Sizes of bytes for people. */
export const megabytes = (bytes) => `${(bytes / MEGABYTE).toFixed(bytes < 10 * MEGABYTE ? 1 : 0)} MB`;

/** Names of media types for people: "JPEG, PNG or WebP". */
export function typeNames(types) {
  const special = { webp: "WebP", jp2: "JPEG 2000", "x-portable-pixmap": "PPM", "x-tga": "TGA" };
  const names = types.map((type) => type.split("/")[1]).map((name) => special[name] ?? name.toUpperCase());
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;
}

/** Why the server would refuse a file, and what to do; empty if it would not. */
export function refusal(file, { types = [], limits = {} }) {
  const name = file.name || "the image";
  if (file.size === 0) return `${name} is empty. Choose another file.`;
  if (limits.bytes && file.size + FORM > limits.bytes) {
    const limit = megabytes(limits.bytes);
    return `${name} has ${megabytes(file.size)}, and the server takes up to ${limit}. Choose a smaller image.`;
  }
  const type = plainType(file.type);
  const known = !type || type.startsWith("image/x-") || types.map(plainType).includes(type);
  if (types.length && !known) {
    return `${name} is of the type ${type}. Choose an image in ${typeNames(types)}.`;
  }
  return "";
}

/** A message that stays until it is closed. */
export function notify(text) {
  const close = make(
    "button",
    { type: "button", class: "icon-button", "aria-label": "Close the message", click: () => notice.remove() },
    cross(),
  );
  const notice = make("div", { class: "notice" }, make("p", {}, text), close);
  byId("notices").append(notice);
}

/** Call `add` with files that are chosen, dropped or pasted. */
export function createIntake(add) {
  const chooser = byId("files");
  chooser.addEventListener("change", () => {
    add([...chooser.files]);
    chooser.value = ""; // so that the same file can be chosen again
  });
  for (const button of document.querySelectorAll("[data-action=choose]")) {
    button.addEventListener("click", () => chooser.click());
  }
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    add(files);
  });
  acceptDrops(add);
}

function acceptDrops(add) {
  let depth = 0; // enters and leaves of elements on the way; all left means that the page is
  const show = (dropping) => document.body.classList.toggle("dropping", dropping);
  document.addEventListener("dragenter", (event) => {
    event.preventDefault();
    depth += 1;
    show(true);
  });
  document.addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    show(depth > 0);
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    show(false);
    const files = [...event.dataTransfer.files];
    if (files.length) add(files);
    else notify("Nothing was dropped that is a file. Save the image first, or copy it and paste it here.");
  });
}
