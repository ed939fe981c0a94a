"use strict";

// An architecture from the image down to the classes: a slab a block, as wide as its feature map has pixels (on a scale of
// octaves), between them what joins them; beside it what each part is, and its milliseconds.

const GLYPH = 96, WORDS = 112, RIGHT = 400, BAR = 84, JOINT = 16, SLAB = 12, SLAB_GAP = 3, STACK = 78;

function partsOf(trial) {
  const { stem, stages, head, image_size } = trial.architecture;
  const options = (given) => Object.entries(given).map(([name, value]) => `${name} ${value}`).join(" · ");
  const size = (i) => (known(trial.resolutions[i]) ? `${trial.resolutions[i]} × ${trial.resolutions[i]} px` : "");
  const map = (width, i) => [`${width} channels`, size(i)].filter(Boolean).join(" · ");
  return [
    { name: `stem ${stem.type}`, about: map(stem.width, 0), options: options(stem.options), blocks: 1,
      resolution: trial.resolutions[0], joint: `image ${image_size} × ${image_size} px` },
    ...stages.map((stage, i) => ({
      name: stage.depth ? `${stage.block} × ${stage.depth}` : "no blocks",
      family: stage.depth ? stage.block : null,
      about: map(stage.width, i + 1),
      options: stage.depth ? options(stage.options) : "",
      blocks: stage.depth,
      resolution: trial.resolutions[i + 1],
      joint: [`${stage.transition.type}${stage.transition.stride > 1 ? `, stride ${stage.transition.stride}` : ""}`,
        options(stage.transition.options)].filter(Boolean).join(" · "),
    })),
    { name: `head ${head.type}`, about: "", options: options(head.options), blocks: 1, resolution: null, joint: "" },
  ];
}

function drawing(trial, families) {
  const parts = partsOf(trial), times = trial.stage_ms;
  const total = times ? times.reduce((sum, ms) => sum + ms, 0) : 0;
  const most = times ? Math.max(...times) : 0;
  const broad = (resolution) =>
    known(resolution) ? 16 + (GLYPH - 16) * Math.min(1, Math.log2(resolution + 1) / Math.log2(trial.architecture.image_size + 1)) : 24;
  const room = times ? RIGHT - BAR - 12 - WORDS : RIGHT - WORDS;
  const canvas = svg("svg", { role: "img", class: "drawing",
    "aria-label": `Drawing: ${parts.map((part) => [part.name, part.about].filter(Boolean).join(", ")).join("; ")}` });
  let y = 2, before = GLYPH;
  for (const [i, part] of parts.entries()) {
    const now = broad(part.resolution), middle = GLYPH / 2;
    canvas.append(svg("path", { class: "joint",
      d: `M${middle - before / 2} ${y} h${before} L${middle + now / 2} ${y + JOINT - 3} h${-now} Z` }));
    if (part.joint) canvas.append(line(part.joint, WORDS, y + 11, "faint", room));
    y += JOINT;
    const lines = [part.about, part.options].filter(Boolean);
    const high = part.blocks ? Math.min(SLAB, (STACK - (part.blocks - 1) * SLAB_GAP) / part.blocks) : 0;
    const slab = Math.max(2, high), gap = part.blocks > 8 ? 1.5 : SLAB_GAP;
    const stack = part.blocks * (slab + gap), text = Math.max(17 + 16 * lines.length, times ? 28 : 0);
    for (let block = 0; block < part.blocks; block++) {
      canvas.append(svg("rect", { x: middle - now / 2, y: y + block * (slab + gap), width: now, height: slab, rx: 2,
        class: "slab", fill: part.family ? families[part.family] || "#888888" : "#888888" }));
    }
    canvas.append(line(part.name, WORDS, y + 12, "strong", room));
    lines.forEach((words, k) => canvas.append(line(words, WORDS, y + 28 + 16 * k, k ? "faint" : "soft", room)));
    if (times) {
      const long = Math.max(2, (BAR * times[i]) / most);
      canvas.append(
        svg("text", { x: RIGHT, y: y + 12, "text-anchor": "end", class: "soft" },
          `${cost(times[i], "ms")} · ${Math.round((100 * times[i]) / total)} %`),
        svg("rect", { x: RIGHT - long, y: y + 19, width: long, height: 6, rx: 3, class: "share" }),
      );
    }
    y += Math.max(stack, text) + 6;
    before = now;
  }
  canvas.setAttribute("viewBox", `0 0 ${RIGHT} ${y}`);
  return canvas;
}

// One line of text, cut to the room that it has; whoever points at it sees all.
function line(words, x, y, kind, room) {
  const shown = shortened(words, Math.floor(room / (kind === "strong" ? 7.6 : kind === "soft" ? 6.4 : 5.6)));
  const made = svg("text", { x, y, class: kind }, shown);
  if (shown !== words) made.append(svg("title", {}, words));
  return made;
}
