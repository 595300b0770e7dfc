// Requests per second, stacked: answered, refused by revgate, failed. A dot above a step means that DevRev answered 429 in it.
const KINDS = [
  ["ok", "answered", p => p.requests - p.refused - p.failed],
  ["refused", "refused", p => p.refused],
  ["failed", "failed", p => p.failed],
];
const TALL = 190, LOW = 168, HIGH = 14, EDGE = 46;
const plot = { points: [], step: 5, chosen: null, started: 0 };

// The smallest round number of at least n whose half is round too.
function round(n) {
  const size = 10 ** Math.floor(Math.log10(n));
  return [1, 1.2, 1.6, 2, 3, 4, 6, 8, 10].map(f => f * size).find(f => f >= n * 0.9999);
}

function traffic(status) {
  plot.points = status.traffic.points;
  plot.step = status.traffic.step_seconds;
  plot.started = status.started_at;
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
  const failed = sum(p => p.failed), refused = sum(p => p.refused);
  const list = [
    ["ok", rate(all / seconds), "requests per second"],
    ["failed", number(failed), "failed in the last minute" + of(failed)],
    ["refused", number(refused), "refused in the last minute" + of(refused)],
    ["", number(sum(p => p.throttled)), "429s from DevRev in the last minute"],
    ["", number(waiting), "waiting for quota now"],
  ];
  each($("figures"), list, item => item[2].split(" ")[0], item => {
    const node = make("li"), words = make("span");
    if (item[0]) words.append(make("i", item[0]));
    words.append(make("span"));
    node.append(make("b"), words);
    return node;
  }, (node, item) => {
    setText(node.firstChild, item[1]);
    setText(node.lastChild.lastChild, item[2]);
  });
}

function frame() {
  const box = $("plot");
  if (box.firstChild) return box.firstChild;
  const svg = draw("svg", { class: "plot", tabindex: 0, role: "slider", "aria-label": "Traffic of the last 15 minutes, step by step" });
  const at = event => {
    const box = svg.getBoundingClientRect();
    const share = (event.clientX - box.left - EDGE) / (box.width - EDGE);
    choose(Math.floor(share * plot.points.length));
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
  const readout = make("p", "readout");
  readout.setAttribute("aria-hidden", "true");
  box.append(svg, readout);
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
  const highest = Math.max(...plot.points.map(p => p.requests)) / plot.step, top = round(Math.max(highest, 1));
  const x = i => EDGE + (wide - EDGE) * i / n, y = perSecond => LOW - (LOW - HIGH) * perSecond / top;
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    const line = Math.round(y(top * share)) + 0.5;
    parts.push(draw("line", { class: "grid", x1: EDGE, x2: wide, y1: line, y2: line }));
    parts.push(draw("text", { x: EDGE - 8, y: line + 4, "text-anchor": "end" }, share ? number(top * share) + "/s" : "0"));
  }
  const minutes = n * plot.step / 60;
  for (let m = 0; m <= minutes; m += 5) {
    const ends = m === 0 ? "end" : m === minutes ? "start" : "middle";
    parts.push(draw("text", { x: x(n - m * 60 / plot.step), y: TALL - 6, "text-anchor": ends }, m ? m + (wide < 520 ? " min" : " min ago") : "now"));
  }
  const below = plot.points.map(() => 0);
  for (const [cls, , pick] of KINDS) {
    let path = "";
    plot.points.forEach((p, i) => {
      const value = pick(p) / plot.step;
      if (value <= 0) return;
      const from = y(below[i]), to = y(below[i] += value);
      path += `M${x(i).toFixed(1)} ${from.toFixed(1)}V${to.toFixed(1)}H${x(i + 1).toFixed(1)}V${from.toFixed(1)}Z`;
    });
    parts.push(draw("path", { class: cls, d: path }));
  }
  plot.points.forEach((p, i) => {
    if (p.throttled) parts.push(draw("circle", { class: "slow", cx: x(i + 0.5).toFixed(1), cy: HIGH - 8, r: 2.5 }));
  });
  if (plot.chosen !== null) {
    const at = x(plot.chosen + 0.5);
    parts.push(draw("line", { class: "cursor", x1: at, x2: at, y1: HIGH - 12, y2: LOW }));
  }
  svg.replaceChildren(...parts);
  read(svg, n);
}

function read(svg, n) {
  const readout = svg.nextSibling, p = plot.points[plot.chosen ?? n - 1];
  const counts = KINDS.map(([, word, pick]) => number(pick(p)) + " " + word);
  const slow = count(p.throttled, "429 from DevRev", "429s from DevRev");
  const when = clock(p.at) + " to " + clock(p.at + plot.step);
  for (const [name, value] of [["valuemin", 0], ["valuemax", n - 1], ["valuenow", plot.chosen ?? n - 1], ["valuetext", [when, ...counts, slow].join(", ")]]) {
    svg.setAttribute("aria-" + name, value);
  }
  const shown = plot.chosen === null
    ? [["slow", "DevRev answered 429"], ["", "Point at a step, or use the arrow keys, for its numbers."]]
    : [["", when], ...KINDS.map(([cls], i) => [cls, counts[i]]), ["", slow]];
  // The legend of the dots is shown only if there are any.
  const list = plot.chosen === null && !plot.points.some(p => p.throttled) ? shown.slice(1) : shown;
  each(readout, list.map((item, place) => ({ item, place })), o => o.place + o.item[0], () => make("span"), (node, o) => {
    setText(node, o.item[1]);
    setClass(node, o.item[0]);
  });
}
