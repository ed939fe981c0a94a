"use strict";

// The scatter plot: what is drawn follows from the facts, the state of the page and what the reader lets through.

function markerText(facts, trial) {
  const lines = [
    `${trial.run ? `${facts.runs[trial.run].name}, ` : ""}trial ${trial.number}  ${dashed(trial.layout)}${trial.design ? `  (${trial.design})` : ""}`,
    trial.families,
    `${percent(trial.accuracy)}${known(trial.epochs) ? ` after ${plural(trial.epochs, "epoch")}` : ""}`,
    facts.axes.map((axis, i) => (known(trial.costs[i]) ? cost(trial.costs[i], axis.unit) : "")).filter(Boolean).join(" · "),
  ];
  return lines.filter(Boolean).map((words) => escaped(shortened(words, 70))).join("<br>");
}

function baselineText(facts, row) {
  return [
    `${row.name}  ${row.kind}`,
    `${percent(row.accuracy)}${row.seeds > 1 ? `, mean of ${row.seeds} seeds` : ""}`,
    facts.axes.map((axis, i) => (known(row.costs[i]) ? cost(row.costs[i], axis.unit) : "")).filter(Boolean).join(" · "),
  ].map((words) => escaped(shortened(words, 70))).join("<br>");
}

function traces(facts, state, shown, colours) {
  const drawn = shown.filter((id) => known(facts.trials[id].accuracy) && known(facts.trials[id].costs[state.axis]));
  const of = (test) => drawn.filter((id) => test(facts.trials[id]));
  const points = (ids, rest) => ({
    type: "scatter",
    mode: "markers",
    x: ids.map((id) => facts.trials[id].costs[state.axis]),
    y: ids.map((id) => 100 * facts.trials[id].accuracy),
    text: ids.map((id) => (facts.trials[id].text ??= markerText(facts, facts.trials[id]))),
    customdata: ids,
    hoverinfo: "text",
    ...rest,
  });
  const quiet = { hoverinfo: "skip", hovertemplate: null };
  const { fronts } = facts.axes[state.axis];
  const found = [];

  // Accuracy after fewer epochs does not compare, so what was stopped is drawn when the legend is asked for it.
  const stopped = of((trial) => trial.status === "pruned" && !trial.run);
  if (stopped.length) {
    found.push(points(stopped, { name: "stopped early", visible: fronts[0].length ? "legendonly" : true, marker: { size: 6, color: colours.faint, symbol: "circle-open", opacity: 0.7 } }));
  }
  found.push(points(fronts[0].filter((id) => known(facts.trials[id].costs[state.axis])), {
    ...quiet, name: "front", mode: "lines", line: { shape: "hv", dash: "dash", width: 1.4, color: colours.soft } }));
  for (const group of facts.layouts) {
    const ids = of((trial) => trial.status === "complete" && !trial.run && group.layouts.includes(trial.layout));
    found.push(points(ids, { name: escaped(group.name),
      marker: { size: 9, color: group.colour, symbol: group.symbol, line: { width: 0.8, color: colours.card } } }));
  }
  fronts.slice(1).forEach((front, i) => {
    const colour = ["#EE7733", "#009988", "#CC3311", "#33BBEE", "#EE3377"][i % 5];
    const dash = ["dot", "dashdot", "longdash"][i % 3];
    found.push(points(front.filter((id) => drawn.includes(id)), { name: escaped(shortened(facts.runs[i + 1].name, 30)), mode: "lines+markers",
      line: { shape: "hv", dash, width: 1.2, color: colour }, marker: { size: 7, symbol: "circle-open", color: colour } }));
  });
  const baselines = facts.baselines.map((_, i) => i).filter((i) => state.passes(facts.baselines[i]) && known(facts.baselines[i].costs[state.axis]));
  if (baselines.length) {
    found.push({ type: "scatter", mode: "markers", name: "baselines", hoverinfo: "text",
      x: baselines.map((i) => facts.baselines[i].costs[state.axis]), y: baselines.map((i) => 100 * facts.baselines[i].accuracy),
      text: baselines.map((i) => baselineText(facts, facts.baselines[i])), customdata: baselines.map((i) => -1 - i),
      marker: { size: 12, symbol: "star", color: colours.ink, line: { width: 1, color: colours.card } } });
  }
  const ring = (id, name, size, colour, width) => found.push(points([id], { ...quiet, name, showlegend: name === "winner",
    marker: { size, symbol: "circle-open", color: colour, line: { width, color: colour } } }));
  if (facts.winner && drawn.includes(facts.winner.trial)) ring(facts.winner.trial, "winner", 17, colours.ink, 1.6);
  if (drawn.includes(state.selected)) ring(state.selected, "selected", 24, colours.accent, 2.4);
  return found;
}

function layout(facts, state, colours, narrow) {
  const axis = facts.axes[state.axis];
  const line = { gridcolor: colours.line, linecolor: colours.line, zeroline: false, ticks: "outside", tickcolor: colours.line };
  const budget = known(axis.budget);
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: colours.soft },
    margin: { l: 48, r: 14, t: 14, b: 46 },
    xaxis: { ...line, title: { text: escaped(shortened(axis.title + (axis.unit === "ms" ? " (ms)" : ""), narrow ? 40 : 90)), standoff: 10 },
      tickformat: axis.unit === "ms" || axis.unit === "×" ? "" : "~s" },
    yaxis: { ...line, title: { text: "", standoff: 8 }, ticksuffix: " %" },
    legend: { orientation: "h", y: -0.2, yanchor: "top", xanchor: "left", x: 0, font: { size: 12 } },
    hovermode: "closest",
    hoverlabel: { bgcolor: colours.card, bordercolor: colours.line, font: { color: colours.ink, size: 13 }, align: "left" },
    shapes: budget ? [{ type: "line", x0: axis.budget, x1: axis.budget, yref: "paper", y0: 0, y1: 1, line: { color: colours.ink, width: 1 } }] : [],
    annotations: budget ? [{ x: axis.budget, y: 0, yref: "paper", text: `budget ${bound(axis.budget, axis.unit)}`, textangle: -90, showarrow: false,
      xanchor: "right", yanchor: "bottom", font: { size: 11, color: colours.soft } }] : [],
    uirevision: state.axis,
  };
}

const PLOT_SETTINGS = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
