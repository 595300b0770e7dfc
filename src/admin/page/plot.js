// Three charts over one time: requests per second by caller, stacked; steps in which something went wrong; what was left of the quota.
const TROUBLES = [
  ["failed", "failed", p => p.failed],
  ["refused", "refused", p => p.refused],
  ["slow", "429 from DevRev", p => p.throttled],
];
const HIGH = 18, LOW = 138, LANE = 9, LEVEL = 46, EDGE = 46, NAMES = 18;
// So many steps are the narrowest chart, so that a process that has just started does not show three wide blocks.
const FEWEST = 24;
const plot = { points: [], series: [], levels: [], step: 5, top: 1, chosen: null };

// The smallest round number of at least n whose half is round too.
function round(n) {
  const size = 10 ** Math.floor(Math.log10(n));
  return [1, 1.2, 1.6, 2, 3, 4, 6, 8, 10].map(f => f * size).find(f => f >= n * 0.9999);
}

function traffic(status) {
  const told = status.traffic;
  // From the bottom up by colour, so that a layer stays where it is.
  const order = one => one.caller === null ? COLOURS : coloured.get(one.caller);
  plot.series = [...told.callers].sort((a, b) => order(a) - order(b));
  Object.assign(plot, { points: told.points, levels: told.quota, step: told.step_seconds, top: told.top_per_step, started: status.started_at });
  figures(status);
  drawPlot();
}

// Numbers of the last minute and of the current step.
function figures(status) {
  const steps = Math.round(60 / plot.step), last = plot.points.slice(-1 - steps);
  const sum = pick => last.reduce((all, p) => all + pick(p), 0);
  const all = sum(p => p.requests), seconds = Math.max(1, status.now - Math.max(last[0].at, status.started_at));
  const waiting = Object.values(status.quota).reduce((n, group) => n + group.waiting, 0);
  const of = n => n && all ? ", " + percent(n / all) : "";
  const failed = sum(p => p.failed), refused = sum(p => p.refused), slow = sum(p => p.throttled);
  const list = [
    [rate(all / seconds), "requests/s", ""],
    [number(waiting), "waiting now", waiting ? "warn" : ""],
    [number(failed), "failed" + of(failed), failed ? "bad" : ""],
    [number(refused), "refused" + of(refused), refused ? "warn" : ""],
    [number(slow), "429s", slow ? "warn" : ""],
  ];
  each($("figures"), list, item => item[1].split(" ")[0], () => {
    const node = make("li");
    node.append(make("b"), make("span"));
    return node;
  }, (node, item) => {
    setText(node.firstChild, item[0]);
    setClass(node.firstChild, item[2]);
    setText(node.lastChild, item[1]);
  });
}

// What the colours mean, with the numbers of the step that is pointed at, else of the last minute.
function legend() {
  const steps = Math.round(60 / plot.step), chosen = plot.chosen, p = plot.points[chosen];
  const value = requests => {
    const last = chosen === null ? requests.slice(-1 - steps, -1) : [requests[chosen] ?? 0];
    return last.length ? last.reduce((all, n) => all + n, 0) / (last.length * plot.step) : 0;
  };
  const list = [["when", chosen === null ? "last minute, requests/s" : clock(p.at) + " to " + clock(p.at + plot.step), ""]];
  for (const { caller, requests } of plot.series) {
    list.push([caller === null ? "rest" : colour(caller), caller ?? "others", " " + rate(value(requests))]);
  }
  for (const [cls, word, pick] of shownTroubles()) list.push([cls, word, chosen === null ? "" : " " + number(pick(p))]);
  if (chosen !== null) for (const one of plot.levels) {
    const left = one.remaining[chosen] ?? null;
    if (left !== null) list.push(["when", number(left) + " left of " + one.group, ""]);
  }
  each($("callers-key"), list.map((item, place) => ({ item, place })), o => o.place + o.item[0], () => swatched("li"), (node, o) => {
    node.firstChild.hidden = o.item[0] === "when";
    setSwatched(node, o.item[0], o.item[1] + o.item[2]);
  });
}

function frame() {
  const box = $("plot");
  if (box.firstChild) return box.firstChild;
  const svg = draw("svg", { class: "plot", tabindex: 0, role: "slider", "aria-label": "Traffic of the last 15 minutes, step by step" });
  const at = event => {
    const box = svg.getBoundingClientRect();
    const share = (event.clientX - box.left - EDGE) / (box.width - EDGE);
    choose(Math.floor(share * Math.max(FEWEST, plot.points.length)));
  };
  svg.addEventListener("pointermove", at);
  svg.addEventListener("pointerdown", at);
  svg.addEventListener("pointerleave", () => { if (document.activeElement !== svg) choose(null); });
  svg.addEventListener("blur", () => choose(null));
  svg.addEventListener("keydown", event => {
    const end = plot.points.length - 1, here = plot.chosen ?? end;
    const to = { ArrowLeft: here - 1, ArrowRight: here + 1, PageUp: here + 12, PageDown: here - 12, Home: 0, End: end, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(to);
  });
  box.append(svg);
  new ResizeObserver(drawPlot).observe(svg);
  return svg;
}

function choose(place) {
  plot.chosen = place === null ? null : Math.max(0, Math.min(plot.points.length - 1, place));
  drawPlot();
}

function drawPlot() {
  const svg = frame(), n = plot.points.length, wide = svg.clientWidth;
  if (!n || !wide) return;
  const steps = Math.max(FEWEST, n), x = i => EDGE + (wide - EDGE) * i / steps;
  const parts = [...bars(x, wide), ...lanes(x)];
  const levelTop = LOW + 8 + shownTroubles().length * LANE;
  const end = plot.levels.length ? levelTop + LEVEL + 8 : levelTop;
  parts.push(...levels(x, wide, levelTop + 8));
  parts.push(...times(x, n, wide, end));
  if (plot.chosen !== null) {
    const at = x(plot.chosen + 0.5);
    parts.push(draw("line", { class: "cursor", x1: at, x2: at, y1: 2, y2: end }));
  }
  const tall = end + NAMES;
  if (svg.getAttribute("height") !== String(tall)) svg.setAttribute("height", tall);
  svg.replaceChildren(...parts);
  read(svg, n);
}

function bars(x, wide) {
  const top = round(Math.max(plot.top / plot.step, 1)), parts = [];
  const y = perSecond => LOW - (LOW - HIGH) * Math.min(1, perSecond / top);
  for (const share of [0, 0.5, 1]) {
    const line = Math.round(y(top * share)) + 0.5;
    parts.push(draw("line", { class: "grid", x1: EDGE, x2: wide, y1: line, y2: line }));
    parts.push(draw("text", { x: EDGE - 8, y: line + 4, "text-anchor": "end" }, share ? number(top * share) + "/s" : "0"));
  }
  const below = plot.points.map(() => 0);
  for (const { caller, requests } of plot.series) {
    let path = "";
    requests.forEach((count, i) => {
      if (!count) return;
      const from = y(below[i]), to = y(below[i] += count / plot.step);
      if (from > to) path += `M${x(i).toFixed(1)} ${from.toFixed(1)}V${to.toFixed(1)}H${x(i + 1).toFixed(1)}V${from.toFixed(1)}Z`;
    });
    parts.push(draw("path", { class: caller === null ? "rest" : colour(caller), d: path }));
  }
  // A step that is higher than the chart has its number on top, the highest one of those close together.
  const cut = below.map((perSecond, i) => ({ perSecond, i })).filter(one => one.perSecond > top * 1.0001);
  cut.sort((a, b) => b.perSecond - a.perSecond);
  const labelled = [];
  for (const { perSecond, i } of cut) {
    const at = Math.min(x(i + 0.5), wide - 22);
    if (labelled.some(other => Math.abs(other - at) < 52)) continue;
    labelled.push(at);
    parts.push(draw("text", { class: "cut", x: at, y: HIGH - 5, "text-anchor": "middle" }, "↑ " + rate(perSecond) + "/s"));
  }
  return parts;
}

const shownTroubles = () => TROUBLES.filter(([, , pick]) => plot.points.some(p => pick(p)));

// A row for each kind of trouble, with a mark for each step that had some.
function lanes(x) {
  return shownTroubles().map(([cls, , pick], row) => {
    const y = LOW + 5 + row * LANE;
    let path = "";
    plot.points.forEach((p, i) => {
      if (pick(p)) path += `M${x(i).toFixed(1)} ${y}H${Math.max(x(i + 1), x(i) + 2).toFixed(1)}v${LANE - 3}H${x(i).toFixed(1)}Z`;
    });
    return draw("path", { class: cls, d: path });
  });
}

// What was left of each group, as a share of its limit.
function levels(x, wide, top) {
  const parts = [], y = share => top + LEVEL - 8 - (LEVEL - 8) * Math.max(0, Math.min(1, share));
  if (!plot.levels.length) return parts;
  for (const [share, word] of [[1, "100 %"], [0, "left 0"]]) {
    const line = Math.round(y(share)) + 0.5;
    parts.push(draw("line", { class: "grid", x1: EDGE, x2: wide, y1: line, y2: line }));
    parts.push(draw("text", { x: EDGE - 8, y: line + 4, "text-anchor": "end" }, word));
  }
  plot.levels.forEach(({ limit, remaining }, row) => {
    let path = "", under = "", open = false;
    remaining.forEach((left, i) => {
      if (left === null) { open = false; return; }
      const at = y(left / Math.max(1, limit)).toFixed(1);
      path += `${open ? "L" : "M"}${x(i).toFixed(1)} ${at}H${x(i + 1).toFixed(1)}`;
      under += `M${x(i).toFixed(1)} ${y(0)}V${at}H${x(i + 1).toFixed(1)}V${y(0)}Z`;
      open = true;
    });
    if (plot.levels.length === 1) parts.push(draw("path", { class: "under", d: under }));
    const line = draw("path", { class: "level l" + row, d: path });
    line.append(draw("title", {}, "left of " + plot.levels[row].group));
    parts.push(line);
  });
  return parts;
}

// The time below. It begins with the process, or 15 minutes ago.
function times(x, n, wide, end) {
  const parts = [], y = end + 13, minutes = n * plot.step / 60, room = (wide - EDGE) / Math.max(FEWEST, n) * 60 / plot.step;
  const every = [1, 2, 5, 15].find(m => m * room > 74) ?? 15;
  const at = x(n);
  parts.push(draw("line", { class: "now", x1: Math.min(at, wide - 0.5), x2: Math.min(at, wide - 0.5), y1: HIGH, y2: end }));
  parts.push(draw("text", { x: at, y, "text-anchor": at > wide - 16 ? "end" : "middle" }, "now"));
  const started = plot.points[0].at <= plot.started, word = started ? "start" : null;
  if (word && at - EDGE > 60) parts.push(draw("text", { x: EDGE, y, "text-anchor": "start" }, word));
  for (let m = every; m <= minutes; m += every) {
    const tick = x(n - m * 60 / plot.step);
    if (word && tick < EDGE + 60) continue;
    parts.push(draw("text", { x: tick, y, "text-anchor": tick < EDGE + 20 ? "start" : "middle" }, m + (room * every < 90 ? " min" : " min ago")));
  }
  return parts;
}

function read(svg, n) {
  const here = plot.chosen ?? n - 1, p = plot.points[here];
  const by = plot.series.map(({ caller, requests }) => [requests[here] ?? 0, caller ?? "others"]).filter(([count]) => count);
  by.sort((a, b) => b[0] - a[0]);
  const counts = by.map(([count, name]) => name + " " + number(count));
  const troubles = TROUBLES.map(([, word, pick]) => [pick(p), word]).filter(([count]) => count);
  const wrong = troubles.map(([count, word]) => number(count) + " " + word);
  const left = plot.levels.filter(one => one.remaining[here] !== null && one.remaining[here] !== undefined);
  const lefts = left.map(one => number(one.remaining[here]) + " left of " + one.group);
  const when = clock(p.at) + " to " + clock(p.at + plot.step), all = count(p.requests, "request");
  for (const [name, value] of [["valuemin", 0], ["valuemax", n - 1], ["valuenow", here], ["valuetext", [when, all, ...counts, ...wrong, ...lefts].join(", ")]]) {
    svg.setAttribute("aria-" + name, value);
  }
  legend();
}
