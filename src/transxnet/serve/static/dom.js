// Making elements, and moving among them with the arrow keys.

/** The element with an id. */
export const byId = (id) => document.getElementById(id);

/**
 * An element. Properties are attributes, except functions, which listen to the event of their name, and `vars`, which
 * are custom properties of CSS. Strings among the children become text, never markup.
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "vars") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** The cross on buttons that close something. */
export function cross() {
  const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  icon.setAttribute("viewBox", "0 0 24 24");
  icon.setAttribute("class", "icon");
  icon.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", "M6 6l12 12M18 6 6 18");
  icon.append(path);
  return icon;
}

/** Let a screen reader say something, also if it is what it said last. */
export function announce(text) {
  const live = byId("live");
  live.textContent = live.textContent === text ? `${text}\u00a0` : text;
}

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

/**
 * Make the elements that a selector finds one stop of the tab key, among which the arrow keys, Home and End move.
 * Returns a function to call after elements were added or removed; its argument is the one to stop at.
 */
export function roving(container, selector, moved = () => {}) {
  const all = () => [...container.querySelectorAll(selector)];
  const stopAt = (chosen) => {
    for (const each of all()) each.tabIndex = each === chosen ? 0 : -1;
  };
  container.addEventListener("focusin", (event) => {
    if (event.target.matches(selector)) stopAt(event.target);
  });
  container.addEventListener("keydown", (event) => {
    const elements = all();
    const current = elements.indexOf(event.target);
    if (current < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    let next = current + (STEPS[event.key] ?? 0);
    if (event.key === "Home") next = 0;
    if (event.key === "End") next = elements.length - 1;
    next = Math.min(Math.max(next, 0), elements.length - 1);
    if (event.key in STEPS || event.key === "Home" || event.key === "End") event.preventDefault();
    if (next === current) return;
    elements[next].focus();
    moved(elements[next]);
  });
  return (chosen) => {
    const elements = all();
    stopAt(chosen ?? elements.find((each) => each.tabIndex === 0) ?? elements[0]);
  };
}

/** A share as a percentage, with more digits where they matter. */
export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  return `${value >= 99.95 ? value.toFixed(0) : value.toFixed(1)} %`;
}

/** Seconds for people. */
export const duration = (seconds) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(2)} s`);
