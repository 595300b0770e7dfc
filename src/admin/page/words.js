// Numbers and times as text. Times are by the gateway's clock, since this machine's clock may differ.
let ahead = 0;
const now = () => Date.now() / 1000 + ahead;

const number = n => Number(n).toLocaleString("en-GB");
const count = (n, one, many) => number(n) + " " + (n === 1 ? one : many ?? one + "s");
const percent = share => share > 0 && share < 0.01 ? "under 1\u00a0%" : Math.round(share * 100) + "\u00a0%";

// A rate with up to three digits.
function rate(n) {
  return n === 0 || n >= 100 ? number(Math.round(n)) : n >= 10 ? n.toFixed(1) : n.toFixed(n < 1 ? 2 : 1);
}

// 4:05, 1:02:05; beyond a day "3 days".
function span(seconds) {
  const s = Math.max(0, Math.ceil(seconds));
  if (s >= 172800) return Math.floor(s / 86400) + " days";
  const two = n => String(n).padStart(2, "0");
  const minutes = Math.floor(s / 60) % 60;
  return s >= 3600 ? Math.floor(s / 3600) + ":" + two(minutes) + ":" + two(s % 60) : minutes + ":" + two(s % 60);
}

// A rounded time, with one unit.
function about(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (s >= 2 * size || (unit === "minute" && s >= size)) return count(Math.floor(s / size), unit);
  }
  return count(s, "second");
}

// A measured time, with two digits: 85 ms, 1.2 s, 34 s, 2 min.
function measured(seconds) {
  if (seconds === null) return "–";
  if (seconds === 0) return "0";
  if (seconds < 0.9995) return Math.max(1, Number((seconds * 1000).toPrecision(2))) + "\u00a0ms";
  if (seconds < 9.95) return seconds.toFixed(1) + "\u00a0s";
  return seconds < 119.5 ? Math.round(seconds) + "\u00a0s" : Math.round(seconds / 60) + "\u00a0min";
}

function ago(at) {
  const s = now() - at;
  return s < 3 ? "just now" : about(s) + " ago";
}

const clock = at => new Date(at * 1000).toLocaleTimeString("en-GB");
const date = at => new Date(at * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
const byCode = codes => Object.entries(codes ?? {}).map(([code, n]) => code + "\u00a0" + number(n)).join(", ");
