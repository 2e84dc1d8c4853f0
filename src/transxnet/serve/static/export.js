// Results to take away: JSON to copy or download, and the picture with what is drawn on it.

import { offerText } from "./dialogs.js";
import { announce, byId } from "./dom.js";

/** The server's answer for entries, as it would give it for all of them in one request. */
function json(entries) {
  const [{ answer }] = entries;
  const values = { task: answer.task, predictions: entries.map((entry) => entry.answer.prediction) };
  if (entries.length === 1) values.seconds = { total: answer.seconds };
  return JSON.stringify(values, null, 2);
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const stem = (name) => name.replace(/\.[^.]+$/, "");

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    announce("Copied");
    return true;
  } catch {
    offerText(text); // also where there is no clipboard: pages that are not encrypted
    return false;
  }
}

/** The picture with its overlay, in the image's size unless that is very large. */
function savePicture(viewer, name) {
  const [width, height] = viewer.size;
  const scale = Math.min(1, 4096 / Math.max(width, height));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
  const context = canvas.getContext("2d");
  context.scale(canvas.width / width, canvas.height / height);
  if (!viewer.image.hidden) context.drawImage(viewer.image, 0, 0, width, height);
  viewer.painter?.(context, width / viewer.frame.clientWidth);
  canvas.toBlob((blob) => save(blob, `${stem(name)} result.png`), "image/png");
}

export function createExport(gallery, viewer) {
  const button = byId("copy");
  button.addEventListener("click", async () => {
    if (!(await copy(json([gallery.selected])))) return;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy JSON"), 1500);
  });
  const download = (entries, name) => save(new Blob([json(entries)], { type: "application/json" }), `${name}.json`);
  byId("download").addEventListener("click", () => download([gallery.selected], stem(gallery.selected.name)));
  const all = byId("download-all");
  all.addEventListener("click", () => download(gallery.entries.filter((entry) => entry.state === "done"), "results"));
  byId("save").addEventListener("click", () => savePicture(viewer, gallery.selected.name));
  return () => {
    all.hidden = gallery.entries.filter((entry) => entry.state === "done").length < 2;
  };
}
