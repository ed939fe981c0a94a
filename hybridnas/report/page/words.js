"use strict";

// Text enters the page by `element` and `svg` alone, which make text nodes: nothing that a user wrote is read as HTML.

function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function button(text, onClick, attributes = {}) {
  const made = element("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", onClick);
  return made;
}

// plotly reads a subset of HTML in its texts.
function escaped(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

// What stands for a trial's number in a command: no path holds it.
const NUMBER = "\0";

const known = (value) => value !== null && value !== undefined;
/** Percent with one digit, of two as near the even one: as Python rounds, so that the page says what the terminal said. */
const tenths = (share) => (100 * share - ((100 * share) % 1 === 0.25 ? 0.05 : 0)).toFixed(1);
const percent = (share) => (known(share) ? `${tenths(share)} %` : "–");

function figure(value) {
  return value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2);
}

function count(value) {
  for (const [size, letter] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (value < size) continue;
    const text = (value / size).toPrecision(3);
    return (text.includes("e") ? Number(text) : text) + letter; // of 999.7 it makes 1.00e+3
  }
  return String(value);
}

// A cost with its unit; in a table, whose head says the unit, without.
function cost(value, unit, bare = false) {
  if (!known(value)) return "–";
  if (unit === "ms") return figure(value) + (bare ? "" : " ms");
  if (unit === "×") return `${value.toFixed(2)}${bare ? "" : " ×"}`;
  return count(value) + (bare || unit === "parameters" ? "" : ` ${unit}`);
}

// A bound as somebody wrote it: 10 ms, not 10.0.
function bound(value, unit) {
  return unit === "ms" || unit === "×" ? `${value} ${unit}` : cost(value, unit);
}

// Layouts are written as the figures do: C-C-T-T.
const dashed = (layout) => [...layout].join("-") || "no blocks";

const STATUSES = {
  complete: "trained",
  pruned: "stopped early",
  failed: "failed",
  infeasible: "over budget",
};

function shortened(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

const GROUPED = new Intl.NumberFormat("en"); // made once: to make it for each number took a tenth of the opening
const grouped = (number) => GROUPED.format(number);
const plural = (number, word) => `${grouped(number)} ${word}${number === 1 ? "" : "s"}`;

// A command, and a button that copies it.
function command(text) {
  const code = element("code", {}, text);
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // a browser that does not let a file copy
      copy.textContent = "Press Ctrl-C";
    }
    setTimeout(() => (copy.textContent = "Copy"), 2000);
  }, { class: "quiet copy" });
  return element("div", { class: "command" }, code, copy);
}
