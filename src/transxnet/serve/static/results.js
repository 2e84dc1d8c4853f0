// The card with results: what any task has.

import { announce, byId, duration, make } from "./dom.js";
import { createExport } from "./export.js";

const TITLES = {
  unreachable: "No answer",
  unauthorised: "A token is needed",
  overloaded: "The server is busy",
  starting: "The server is starting",
  stopping: "The server is stopping",
  "too-slow": "It took too long",
  "unreadable-image": "This image cannot be read",
  "unsupported-type": "This kind of file is not taken",
  "body-too-large": "This file is too large",
  "too-many-pixels": "This image is too large",
};

const FINAL = ["unreadable-image", "unsupported-type", "body-too-large", "too-many-pixels"]; // whenever it is sent

/** Shows the selected entry with the view of its task; `again` is called with an entry to ask for once more. */
export function createResults(gallery, viewer, again) {
  const [state, found, details, after] = ["state", "found", "details", "after"].map(byId);
  const refreshExport = createExport(gallery, viewer);
  let view = null;

  function failure({ message, code }, entry) {
    const retry = FINAL.includes(code)
      ? null
      : make("button", { type: "button", class: "button", click: () => again(entry) }, "Try again");
    return make("div", { class: "failure", role: "alert" },
      make("strong", {}, TITLES[code] ?? "The server could not answer"), make("p", {}, message), retry);
  }

  function table(entry) {
    const { heads, rows } = view.table(entry);
    const kind = (index) => (index ? { class: "number" } : {});
    const head = heads.map((text, index) => make("th", { scope: "col", ...kind(index) }, text));
    const body = rows.map((cells) => make("tr", {}, cells.map((cell, index) =>
      index ? make("td", kind(index), cell) : make("th", { scope: "row" }, cell))));
    byId("table").replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, head)), make("tbody", {}, body)));
  }

  function render() {
    const entry = gallery.selected;
    if (!entry) return;
    const done = entry.state === "done";
    byId("filename").textContent = entry.name;
    byId("filename").title = entry.name;
    details.hidden = after.hidden = !done;
    byId("work").classList.toggle("failed", entry.state === "failed");
    state.replaceChildren();
    if (done) {
      view.show(entry);
      table(entry);
      const { seconds, roundTrip } = entry.answer;
      byId("timing").textContent = `Server ${duration(seconds)}, round trip ${duration(roundTrip)}`;
      refreshExport();
      return;
    }
    view?.hide?.();
    viewer.onpoint = () => {};
    found.replaceChildren();
    if (entry.state === "failed") state.append(failure(entry.error, entry));
    else state.append(make("p", { class: "working" }, entry.note || "Waiting for the server…"));
  }

  gallery.addEventListener("select", () => {
    viewer.show(gallery.selected);
    render();
    const entry = gallery.selected;
    if (entry?.state === "done") announce(`${entry.name}: ${view.summary(entry)}`);
  });
  gallery.addEventListener("update", (event) => {
    const entry = event.detail;
    if (entry !== gallery.selected) {
      refreshExport();
      return;
    }
    render();
    if (entry.state === "done") announce(`${entry.name}: ${view.summary(entry)}`);
    else if (entry.note) announce(entry.note);
  });

  return {
    use(chosen) {
      view = chosen;
      render();
    },
  };
}
