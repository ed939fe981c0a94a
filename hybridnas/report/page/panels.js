"use strict";

// What stands beside the plot: the winner, the selected trial, the front, baselines, how far all that may be believed.

function tile(name, value, note = "") {
  return element("div", { class: "tile" },
    element("span", { class: "muted small" }, name), element("strong", {}, value), element("span", { class: "muted small" }, note));
}

function fillWinner(section, facts, onSelect) {
  const { winner } = facts;
  if (!winner) {
    const trained = facts.trials.some((trial) => trial.status === "complete");
    section.replaceChildren(element("p", { class: "muted" }, trained
      ? "No winner yet: the search did not come to its end. Go on with it by --resume."
      : "Nothing is trained to the end yet, so there is no front and no winner."));
    return;
  }
  const trial = facts.trials[winner.trial];
  const margin = known(winner.margin) ? ` ± ${tenths(winner.margin)}` : "";
  const seeds = winner.seeds > 1 ? `mean of ${winner.seeds} seeds` : "one seed";
  section.replaceChildren(
    element("div", { class: "tile" }, element("span", { class: "muted small" }, "winner"),
      button(`trial ${trial.number}`, () => onSelect(winner.trial), { class: "link strong" }),
      element("span", { class: "muted small" }, shortened(dashed(trial.layout) + (trial.design ? ` (${trial.design})` : ""), 60))),
    tile(`validation ${facts.accuracy}`, `${tenths(winner.accuracy)}${margin} %`, `${seeds}, ${plural(winner.epochs, "epoch")}`),
    tile("on the test images", percent(winner.test_accuracy), "looked at once"),
    ...winner.targets.map((target) => tile(`exported, on ${shortened(target.target, 40)}`, cost(target.latency_ms_p50, "ms"),
      (known(target.budget_ms) ? `of ${bound(target.budget_ms, "ms")} · ` : "") + `p95 ${cost(target.latency_ms_p95, "ms")}`)),
    tile("multiply-adds", count(trial.costs.at(-2))),
    tile("parameters", count(trial.costs.at(-1))),
  );
}

function fillDetail(section, facts, state, onSelect) {
  if (state.selected < 0) return fillBaseline(section, facts, facts.baselines[-1 - state.selected]);
  const trial = facts.trials[state.selected];
  if (!trial) {
    section.replaceChildren(element("h2", {}, "No trial"), element("p", { class: "muted" }, "This run has no trials yet."));
    return;
  }
  const front = facts.axes[state.axis].fronts[0], place = front.indexOf(state.selected);
  const step = (to, text, name) => {
    const made = button(text, () => onSelect(front[to]), { class: "quiet", "aria-label": name });
    made.disabled = to < 0 || to >= front.length;
    return made;
  };
  const badges = [
    facts.winner && facts.winner.trial === state.selected ? "winner" : "",
    place >= 0 ? "on the front" : "",
    STATUSES[trial.status] || trial.status,
    trial.run ? facts.runs[trial.run].name : "",
    trial.design,
  ].filter(Boolean);
  const figures = [
    [facts.accuracy, percent(trial.accuracy), known(trial.epochs) ? `after ${plural(trial.epochs, "epoch")}` : known(trial.accuracy) ? "" : "not trained"],
    ...(trial.confirmed ? [["trained longer", percent(trial.confirmed.accuracy), howLong(trial.confirmed)]] : []),
    ...facts.axes.map((axis, i) => [axis.name, cost(costOf(trial, i), axis.unit, axis.unit === "MACs"), latencyNote(trial, i)]).filter(([, value]) => value !== "–"),
    ...(trial.seconds ? [["training took", `${figure(trial.seconds)} s`, ""]] : []),
  ];
  section.replaceChildren(
    element("div", { class: "heading" },
      element("h2", { tabindex: "-1" }, `Trial ${trial.number}`),
      ...(front.length > 1 ? [element("div", { class: "pager" }, element("span", { class: "muted small" }, "along the front"),
        step(place < 0 ? 0 : place - 1, "‹", "Cheaper design of the front"), step(place < 0 ? 0 : place + 1, "›", "More accurate design of the front"))] : [])),
    element("p", { class: "families" }, shortened(`${dashed(trial.layout)} · ${trial.families || "no blocks"}`, 300)),
    element("p", { class: "badges" }, ...badges.map((badge) => element("span", { class: `badge${badge === "winner" ? " first" : ""}` }, badge))),
    ...(trial.reason ? [element("p", { class: "reason" }, trial.reason)] : []),
    element("dl", { class: "figures" }, ...figures.map(([name, value, note]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value, ...(note ? [element("small", {}, note)] : []))))),
    element("h3", {}, trial.stage_ms ? "Stage by stage, with latency" : "Stage by stage"),
    drawing(trial, facts.families),
    element("p", { class: "muted small" }, trial.stage_ms
      ? "Milliseconds are predicted from the table of parts and scaled to the latency of the whole."
      : "The milliseconds of its parts are not known."),
    element("h3", {}, trial.kept ? "Export it" : "Its weights are not kept: train it"),
    command(facts.runs[trial.run][trial.kept ? "export" : "train"].replaceAll(NUMBER, trial.number)),
  );
}

// The first versions did not say it.
function howLong({ seeds, epochs }) {
  return [known(seeds) ? plural(seeds, "seed") : "", known(epochs) ? plural(epochs, "epoch") : ""].filter(Boolean).join(", ");
}

function latencyNote(trial, axis) {
  const found = trial.latency[axis];
  if (!found) return "";
  if (!known(found.p50)) return "predicted";
  return [known(found.p95) ? `p95 ${cost(found.p95, "ms")}` : "", known(found.predicted) ? `predicted ${figure(found.predicted)}` : ""].filter(Boolean).join(", ");
}

function fillBaseline(section, facts, row) {
  const figures = [
    [facts.accuracy, percent(row.accuracy), row.seeds > 1 ? `mean of ${row.seeds} seeds` : "one seed"],
    ["on the test images", percent(row.test_accuracy)],
    ...facts.axes.map((axis, i) => [axis.name, cost(row.costs[i], axis.unit, axis.unit === "MACs")]),
  ].filter(([, value]) => value !== "–");
  section.replaceChildren(
    element("h2", { tabindex: "-1" }, shortened(row.name, 100)),
    element("p", { class: "families" }, row.layout ? shortened(dashed(row.layout), 300) : ""),
    element("p", { class: "badges" }, ...["baseline", row.kind, row.pretrained ? "pretrained" : ""].filter(Boolean).map((badge) => element("span", { class: "badge" }, badge))),
    element("dl", { class: "figures" }, ...figures.map(([name, value, note]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value, ...(note ? [element("small", {}, note)] : []))))),
  );
}

function fillFront(list, about, facts, state, onSelect) {
  const axis = facts.axes[state.axis], front = axis.fronts[0];
  about.textContent = !front.length ? "Nothing is trained to the end yet."
    : front.length === 1 ? "One design is both the cheapest and the most accurate: the front is a single point."
    : `${plural(front.length, "design")}, cheapest first${mostChanged(axis.changes)}`;
  list.replaceChildren(...front.map((id, i) => {
    const trial = facts.trials[id], before = i ? facts.trials[front[i - 1]] : null;
    const changed = new Set(axis.changes[i].map(([where]) => where));
    const gain = before ? `${signed(100 * (trial.accuracy - before.accuracy), 1)} points for ${ratio(trial.costs[state.axis] / before.costs[state.axis])}` : "";
    return element("li", id === state.selected ? { "aria-current": "true" } : {},
      element("div", { class: "step" },
        button(`trial ${trial.number}`, () => onSelect(id), { class: "link" }),
        element("strong", {}, percent(trial.accuracy)), element("span", {}, cost(trial.costs[state.axis], axis.unit)),
        element("span", { class: "muted small" }, gain)),
      element("div", { class: "strip" }, ...trial.architecture.stages.map((stage, k) => {
        const cell = element("span", { class: changed.has(`stage ${k + 1}`) ? "changed" : "" }, stage.depth ? `${stage.block} × ${stage.depth}` : "no blocks");
        cell.style.setProperty("--family", stage.depth ? facts.families[stage.block] || "#888888" : "#888888");
        return cell;
      })),
      ...(i ? [element("ul", { class: "changes" }, ...byPlace(axis.changes[i]).map(([where, what]) =>
        element("li", {}, element("b", {}, where), ` ${what.join(", ")}`)))] : []));
  }));
}

// The changes of one place together: 'stage 3' and ['depth 2 → 4', 'width 48 → 64'].
function byPlace(changes) {
  const places = new Map();
  for (const [where, what, before, after] of changes) {
    places.set(where, [...(places.get(where) || []), `${what} ${before} → ${after}`]);
  }
  return [...places];
}

function mostChanged(changes) {
  const times = new Map();
  for (const [where, what] of changes.flat()) times.set(`${where}'s ${what}`, (times.get(`${where}'s ${what}`) || 0) + 1);
  const most = [...times].filter(([, n]) => n > 1).sort((a, b) => b[1] - a[1]).slice(0, 3);
  return most.length ? `. Changed most often: ${most.map(([what, n]) => `${what} (${n} times)`).join(", ")}.` : ".";
}

const signed = (value, digits) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
const ratio = (value) => (value < 1.995 ? `${signed(100 * (value - 1), 0)} %` : `${value.toFixed(1)} times the cost`);

const ESTIMATES = [
  ["accuracy", "short training"],
  ["more_macs", "more multiply-adds wins"],
  ["more_params", "more parameters wins"],
  ["ceiling", "ceiling: one long training"],
];

function fillTrust(section, facts) {
  const { trust } = facts;
  const title = element("h2", { id: "trust-title" }, "May the order be believed?");
  if (!trust) {
    section.replaceChildren(title,
      element("p", { class: "muted" }, "Not asked yet: short trainings may order designs otherwise than long ones do. This trains a sample of them longer and says how often:"),
      command(facts.ask_trust));
    return;
  }
  const bias = trust.estimates.bias;
  section.replaceChildren(title,
    element("p", {}, trust.verdict),
    element("p", { class: "muted small" }, `Of ${plural(trust.pairs, "pair")} of about equal latency among ${plural(trust.networks, "network")} `
      + `trained ${plural(trust.epochs, "epoch")}, the share put in the right order, with 95 % intervals:`),
    element("div", { class: "estimates" }, ...ESTIMATES.flatMap(([key, name]) => {
      const { value, low, high } = trust.estimates[key];
      if (!known(value)) return [element("span", {}, name), element("span", { class: "muted" }, "–"), element("span", {}, "")];
      const bar = element("span", { class: "interval", "aria-hidden": "true" }, element("i", { class: "range" }), element("i", { class: "point" }));
      bar.style.setProperty("--low", low);
      bar.style.setProperty("--high", high);
      bar.style.setProperty("--value", value);
      return [element("span", {}, name), bar, element("span", { class: "number" }, `${value.toFixed(2)} (${low.toFixed(2)} to ${high.toFixed(2)})`)];
    })),
    element("p", { class: "muted small" }, "0.5, the line in the middle, is what a coin would say."
      + (known(bias.value) ? ` By training longer, attention gains ${signed(100 * bias.value, 1)} points over convolution (${signed(100 * bias.low, 1)} to ${signed(100 * bias.high, 1)}).` : "")),
  );
}

function fillBaselines(section, facts, onSelect) {
  section.hidden = !facts.baselines.length;
  if (section.hidden) return;
  const heads = ["name", "kind", "layout", `${facts.accuracy}, %`, "seeds", "test, %", ...facts.axes.map((axis) => axis.name + (axis.unit === "ms" ? ", ms" : "")), "to the winner"];
  const rows = facts.baselines.map((row, i) => {
    const cells = [shortened(row.kind, 40) + (row.pretrained ? ", pretrained" : ""), row.layout ? shortened(dashed(row.layout), 40) : "–", bareShare(row.accuracy), row.seeds, bareShare(row.test_accuracy),
      ...facts.axes.map((axis, k) => cost(row.costs[k], axis.unit, true)), facts.winner ? `${signed(100 * (row.accuracy - facts.winner.accuracy), 1)} points` : "–"];
    return element("tr", {}, element("td", { class: "wide" }, button(row.name, () => onSelect(-1 - i), { class: "link" })),
      ...cells.map((text, k) => element("td", { class: k < 2 ? "" : "number" }, String(text))));
  });
  section.replaceChildren(element("h2", { id: "baselines-title" }, "Baselines"),
    element("p", { class: "muted small" }, "Known networks, trained and timed on the same data and device; stars in the plot."),
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "baselines-title" },
      element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((name, k) => element("th", { scope: "col", class: k > 2 ? "number" : "" }, name)))),
        element("tbody", {}, ...rows))));
}

const bareShare = (share) => (known(share) ? tenths(share) : "–");
