// The images on the page, and which of them is shown.

let made = 0;

/** An image; `state` is "waiting", "working", "done" or "failed". */
class Entry {
  constructor(file) {
    this.id = ++made;
    this.file = file;
    this.name = file.name || `image ${this.id}`;
    this.url = URL.createObjectURL(file);
    this.state = "waiting";
    this.answer = null; // of Server.predict
    this.error = null;
    this.note = "";
    this.cancel = new AbortController();
  }
}

/** Sends "list" when images come or go, "select" when another is shown, "update" with an entry that has changed. */
export class Gallery extends EventTarget {
  constructor() {
    super();
    this.entries = [];
    this.selected = null;
  }

  /** Add files, and show the first of them. */
  add(files) {
    const added = files.map((file) => new Entry(file));
    this.entries.push(...added);
    this.send("list");
    if (added.length) this.select(added[0]);
    return added;
  }

  select(entry) {
    if (entry === this.selected) return;
    this.selected = entry;
    this.send("select", entry);
  }

  /** Change an entry's values, and say so. */
  update(entry, values) {
    Object.assign(entry, values);
    this.send("update", entry);
  }

  /** Remove an image, whose request is given up; its neighbour is shown. */
  remove(entry) {
    const index = this.entries.indexOf(entry);
    if (index < 0) return;
    this.entries.splice(index, 1);
    entry.cancel.abort();
    URL.revokeObjectURL(entry.url);
    const next = this.entries[Math.min(index, this.entries.length - 1)] ?? null;
    this.send("list");
    if (entry === this.selected) this.select(next);
  }

  send(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
