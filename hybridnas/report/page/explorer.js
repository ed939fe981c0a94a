"use strict";

// The page: its state, and what each click changes of it.

(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const at = (id) => document.getElementById(id);
  const STEPS = 200;
  const columns = columnsOf(facts);
  const state = {
    axis: 0,
    limits: facts.axes.map(() => Infinity),
    statuses: new Set(["complete", "pruned", "failed"]),
    sort: { key: "accuracy", descending: true },
    page: 0,
    selected: firstSelected(),
    passes: (row) => facts.axes.every((_, i) => state.limits[i] === Infinity || (known(costOfRow(row, i)) && costOfRow(row, i) <= state.limits[i])),
  };

  function firstSelected() {
    if (facts.winner) return facts.winner.trial;
    const best = facts.axes[0].fronts[0].at(-1);
    return known(best) ? best : 0;
  }

  function costOfRow(row, axis) {
    return row.latency ? costOf(row, axis) : row.costs[axis];
  }

  function shown() {
    const ids = [];
    facts.trials.forEach((trial, id) => {
      if (state.statuses.has(trial.status) && state.passes(trial)) ids.push(id);
    });
    return ids;
  }

  // A colour of the style sheet, as it is in the present theme.
  function colour(name) {
    const probe = element("i");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  }

  let waiting = 0; // not before plotly is there
  function drawSoon() {
    if (waiting === null) waiting = setTimeout(() => { waiting = null; drawPlot(); }, 40);
  }

  function drawPlot() {
    const colours = Object.fromEntries(["ink", "soft", "faint", "line", "card", "accent"].map((name) => [name, colour(name)]));
    const missing = facts.runs.slice(1).filter((_, i) => !facts.axes[state.axis].fronts[i + 1].length).map((run) => run.name);
    at("plot-note").hidden = !missing.length;
    at("plot-note").textContent = `Not drawn, as it has no figures that compare with these: ${missing.join(", ")}.`;
    return Plotly.react(at("plot"), traces(facts, state, shown(), colours), layout(facts, state, colours, innerWidth < 700), PLOT_SETTINGS);
  }

  function fillTable() {
    const column = columns.find((each) => each.key === state.sort.key);
    const ids = sorted(facts, shown(), column, state.sort.descending);
    state.page = Math.max(0, Math.min(state.page, Math.ceil(ids.length / PAGE_SIZE) - 1));
    const from = state.page * PAGE_SIZE;
    fillHead(at("table").tHead, columns, state.sort, (clicked) => {
      state.sort = { key: clicked.key, descending: state.sort.key === clicked.key ? !state.sort.descending : clicked.key === "accuracy" };
      state.page = 0;
      fillTable();
      at("table").querySelector(`button[data-key="${clicked.key}"]`).focus();
    });
    fillBody(at("table").tBodies[0], facts, ids.slice(from, from + PAGE_SIZE), columns, state.selected, select);
    fillPager(at("pager"), state.page, ids.length, (to) => {
      state.page = to;
      fillTable();
    });
  }

  function select(id) {
    state.selected = id;
    for (const row of at("table").tBodies[0].rows) {
      row.dataset.id === String(id) ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current");
    }
    fillDetail(at("detail"), facts, state, select);
    fillFront(at("front"), at("front-about"), facts, state, select);
    drawSoon();
    const heading = at("detail").querySelector("h2"), { top, bottom } = heading.getBoundingClientRect();
    if (top < 0 || bottom > innerHeight) heading.scrollIntoView({ block: "start" });
  }

  function narrowed() {
    state.page = 0;
    fillTable();
    drawSoon();
  }

  function fillStatuses() {
    for (const [status, words] of Object.entries(STATUSES)) {
      const number = facts.trials.filter((trial) => trial.status === status && !trial.run).length;
      if (!number) continue;
      const box = element("input", { type: "checkbox", value: status });
      box.checked = state.statuses.has(status);
      box.addEventListener("change", () => {
        box.checked ? state.statuses.add(status) : state.statuses.delete(status);
        narrowed();
      });
      at("statuses").append(element("label", { class: "chip" }, box, `${words} `, element("span", { class: "muted" }, grouped(number))));
    }
  }

  // One upper bound for each cost: the right end lets everything through.
  function fillLimits() {
    facts.axes.forEach((axis, i) => {
      const values = [...facts.trials.filter((trial) => known(trial.accuracy)), ...facts.baselines].map((row) => row.costs[i]).filter(known);
      if (values.length < 2) return;
      const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
      const slider = element("input", { type: "range", min: 0, max: STEPS, value: STEPS, "data-axis": i });
      const said = element("output", {}, "any");
      const heard = (text) => { said.textContent = text; slider.setAttribute("aria-valuetext", text); };
      slider.addEventListener("input", () => {
        const place = Number(slider.value);
        state.limits[i] = place === STEPS ? Infinity : low + ((high - low) * place) / STEPS;
        heard(place === STEPS ? "any" : `≤ ${cost(state.limits[i], axis.unit)}`);
        narrowed();
      });
      at("limits").append(element("label", { class: "limit" }, element("span", {}, axis.name), said, slider));
    });
  }

  function fillTheme() {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
    const named = () => { at("theme").textContent = isDark() ? "Light" : "Dark"; at("theme").setAttribute("aria-label", `Show the page ${isDark() ? "light" : "dark"}`); };
    at("theme").addEventListener("click", () => {
      document.documentElement.dataset.theme = isDark() ? "light" : "dark";
      named();
      drawPlot();
    });
    dark.addEventListener("change", () => { named(); drawPlot(); });
    named();
  }

  function fillAxes() {
    facts.axes.forEach((axis, i) => at("axis").append(element("option", { value: i }, shortened(axis.name, 60))));
    at("axis").addEventListener("change", () => {
      state.axis = Number(at("axis").value);
      drawPlot();
      fillDetail(at("detail"), facts, state, select);
      fillFront(at("front"), at("front-about"), facts, state, select);
    });
  }

  at("name").textContent = facts.runs[0].name;
  const number = (status) => facts.trials.filter((trial) => trial.status === status && !trial.run).length;
  at("about").textContent = `${plural(number("complete"), "architecture")} of ${shortened(facts.space, 80)} trained on ${shortened(facts.data, 80)}`
    + (number("pruned") ? `, ${grouped(number("pruned"))} more stopped early` : "")
    + (number("infeasible") ? `, ${grouped(number("infeasible"))} over budget and never trained` : "") + ".";
  document.title = `${facts.runs[0].name} – hybridnas explorer`;
  fillTheme();
  fillAxes();
  fillStatuses();
  fillLimits();
  fillWinner(at("winner"), facts, select);
  fillDetail(at("detail"), facts, state, select);
  fillFront(at("front"), at("front-about"), facts, state, select);
  fillTrust(at("trust"), facts);
  fillBaselines(at("baselines"), facts, select);
  fillTable();
  // plotly comes last, as it takes longest: all else stands there before.
  document.addEventListener("DOMContentLoaded", async () => {
    await drawPlot();
    waiting = null;
    at("plot").on("plotly_click", (event) => select(event.points[0].customdata));
    document.documentElement.dataset.ready = Math.round(performance.now()); // milliseconds since it was asked for
  });
})();
