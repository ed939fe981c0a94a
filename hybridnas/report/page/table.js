"use strict";

// The table of trials: sorted by a click on a head, a page at a time.

const PAGE_SIZE = 50;

function columnsOf(facts) {
  const numbers = facts.axes.map((axis, i) => ({
    key: `cost${i}`, name: axis.name + (axis.unit === "ms" ? ", ms" : axis.unit === "×" ? ", ×" : ""), number: true,
    value: (trial) => costOf(trial, i),
    shown: (trial) => (known(trial.costs[i]) || !known(costOf(trial, i)) ? "" : "≈ ") + cost(costOf(trial, i), axis.unit, true),
  }));
  return [
    { key: "number", name: "trial", number: true, value: (trial) => trial.number, shown: (trial) => String(trial.number) },
    ...(facts.runs.length > 1 ? [{ key: "run", name: "run", value: (trial) => shortened(facts.runs[trial.run].name, 30) }] : []),
    { key: "layout", name: "layout", value: (trial) => shortened(dashed(trial.layout), 40) },
    { key: "families", name: "families", wide: true, value: (trial) => trial.families + (trial.design ? ` (${trial.design})` : "") },
    { key: "status", name: "status", value: (trial) => STATUSES[trial.status] || trial.status },
    { key: "accuracy", name: `${facts.accuracy}, %`, number: true, value: (trial) => trial.accuracy,
      shown: (trial) => (known(trial.accuracy) ? tenths(trial.accuracy) : "–") },
    ...numbers,
    { key: "size", name: "px", number: true, value: (trial) => trial.image_size, shown: (trial) => String(trial.image_size) },
    { key: "epochs", name: "epochs", number: true, value: (trial) => trial.epochs, shown: (trial) => (known(trial.epochs) ? String(trial.epochs) : "–") },
  ];
}

// Measured, or else foreseen.
function costOf(trial, axis) {
  return known(trial.costs[axis]) ? trial.costs[axis] : trial.latency[axis] ? trial.latency[axis].predicted : null;
}

// What has no value comes last, whichever way the rest is sorted.
function sorted(facts, ids, column, descending) {
  const sign = descending ? -1 : 1;
  const by = (one, other) => {
    if (!known(one) || !known(other)) return known(one) ? -1 : known(other) ? 1 : 0;
    return sign * (column.number ? one - other : one < other ? -1 : one > other ? 1 : 0);
  };
  return [...ids].sort((a, b) => by(column.value(facts.trials[a]), column.value(facts.trials[b])));
}

function fillHead(head, columns, sort, onSort) {
  head.replaceChildren(element("tr", {}, ...columns.map((column) => {
    const order = sort.key === column.key ? (sort.descending ? "descending" : "ascending") : "none";
    return element("th", { scope: "col", "aria-sort": order, class: column.number ? "number" : "" },
      button(column.name, () => onSort(column), { "data-key": column.key }));
  })));
}

function fillBody(body, facts, ids, columns, selected, onSelect) {
  body.replaceChildren(...ids.map((id) => {
    const trial = facts.trials[id];
    const cells = columns.map((column) => {
      const text = column.shown ? column.shown(trial) : column.value(trial);
      const cell = element("td", { class: [column.number ? "number" : "", column.wide ? "wide" : ""].join(" ").trim() });
      cell.append(column.key === "number" ? element("button", { type: "button", class: "link" }, text) : text);
      if (column.key === "families") cell.title = text;
      return cell;
    });
    const row = element("tr", { "data-id": id, class: trial.status, ...(id === selected ? { "aria-current": "true" } : {}) }, ...cells);
    row.addEventListener("click", () => onSelect(id));
    return row;
  }));
  if (!ids.length) body.append(element("tr", {}, element("td", { colspan: columns.length, class: "muted" }, "No trial is within these bounds.")));
}

function fillPager(pager, page, total, onPage) {
  const first = page * PAGE_SIZE, last = Math.min(total, first + PAGE_SIZE);
  const move = (text, to, possible, name) => {
    const made = button(text, () => onPage(to), { class: "quiet", "aria-label": name });
    made.disabled = !possible;
    return made;
  };
  pager.replaceChildren(
    element("span", { class: "muted" }, total ? `${grouped(first + 1)}–${grouped(last)} of ${grouped(total)}` : "none"),
    move("‹", page - 1, page > 0, "Previous page"),
    move("›", page + 1, last < total, "Next page"),
  );
}
