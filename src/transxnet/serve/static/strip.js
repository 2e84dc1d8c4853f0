// The strip of thumbnails, to go between images and to remove them.

import { announce, byId, cross, make, roving } from "./dom.js";

const STATES = { waiting: "waiting", working: "working", done: "done", failed: "failed" };

export function createStrip(gallery) {
  const list = byId("strip");
  const items = new Map(); // entry to list item
  const refresh = roving(list, ".thumb", (thumb) => gallery.select(entryOf(thumb)));

  const entryOf = (thumb) => [...items].find(([, item]) => item.contains(thumb))?.[0];

  function item(entry) {
    const thumb = make(
      "button",
      { type: "button", class: "thumb", tabindex: "-1", click: () => gallery.select(entry) },
      make("img", { src: entry.url, alt: "", loading: "lazy", decoding: "async", error: (event) => event.target.remove() }),
      make("span", { class: "mark" }),
    );
    const label = `Remove ${entry.name}`;
    const remove = make(
      "button",
      { type: "button", class: "remove", "aria-label": label, title: "Remove", tabindex: "-1", click: () => drop(entry) },
      cross(),
    );
    return make("li", {}, thumb, remove);
  }

  /** Remove an entry; the focus stays in the strip, or goes to where images are chosen. */
  function drop(entry) {
    gallery.remove(entry);
    announce(`${entry.name} removed`);
    const next = items.get(gallery.selected)?.querySelector(".thumb");
    (next ?? document.querySelector("#empty [data-action]")).focus();
  }

  function describe(entry) {
    const thumb = items.get(entry)?.querySelector(".thumb");
    if (!thumb) return;
    const current = entry === gallery.selected;
    thumb.dataset.state = entry.state;
    thumb.title = entry.name;
    thumb.setAttribute("aria-label", `${entry.name}, ${STATES[entry.state]}`);
    thumb.setAttribute("aria-current", String(current));
    thumb.nextElementSibling.tabIndex = current ? 0 : -1;
  }

  gallery.addEventListener("list", () => {
    for (const [entry, element] of items) {
      if (gallery.entries.includes(entry)) continue;
      element.remove();
      items.delete(entry);
    }
    for (const entry of gallery.entries) {
      if (items.has(entry)) continue;
      items.set(entry, item(entry));
      list.append(items.get(entry));
      describe(entry);
    }
    refresh();
  });
  gallery.addEventListener("select", () => {
    gallery.entries.forEach(describe);
    const thumb = items.get(gallery.selected)?.querySelector(".thumb");
    if (!thumb) return;
    refresh(thumb);
    // Not scrollIntoView, which would scroll the page as well.
    list.scrollLeft = thumb.parentElement.offsetLeft - list.offsetLeft - (list.clientWidth - thumb.clientWidth) / 2;
  });
  gallery.addEventListener("update", (event) => describe(event.detail));
  list.addEventListener("keydown", (event) => {
    if (event.key !== "Delete" && event.key !== "Backspace") return;
    const entry = entryOf(event.target);
    if (entry) drop(entry);
  });
}
