"use strict";
const main = document.querySelector("main"), note = document.querySelector("#note"), key = document.querySelector("#key");
// Only textContent is ever set: names come from files and callers.
function el(tag, text, cls) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (cls) e.className = cls;
  return e;
}
const plain = v => v === null || typeof v !== "object";
function show(name, v) {
  if (v === null || v === undefined) return "–";
  if (typeof v === "number" && v > 1e9 && v < 1e10 && /(until|reset|seen|expir|start|_at$)/.test(name)) {
    const left = Math.ceil(v - Date.now() / 1000);
    return left > 0 ? "in " + left + " s" : new Date(v * 1000).toLocaleString();
  }
  return typeof v === "object" ? JSON.stringify(v) : String(v);
}
async function resume(group) {
  const headers = key.value ? { Authorization: "Bearer " + key.value } : {};
  try {
    const r = await fetch("/quota/" + encodeURIComponent(group) + "/resume", { method: "POST", headers });
    note.textContent = await r.text();
  } catch (e) { note.textContent = String(e); }
}
function rows(title, list) {
  const columns = [...new Set(list.flatMap(([, row]) => plain(row) ? ["value"] : Object.keys(row)))];
  const quota = /quota|group/.test(title), table = el("table"), head = el("tr");
  head.append(el("th", "name"), ...columns.map(c => el("th", c.replaceAll("_", " "))));
  if (quota) head.append(el("th"));
  table.append(head);
  for (const [name, row] of list) {
    const tr = el("tr");
    tr.append(el("td", name), ...columns.map(c => el("td", show(c, plain(row) ? row : row[c]))));
    if (quota) {
      const cell = el("td"), button = el("button", "resume");
      button.onclick = () => resume(name);
      cell.append(button);
      tr.append(cell);
    }
    table.append(tr);
  }
  return table;
}
function section(title, v) {
  const box = el("div", undefined, "box");
  let list = Array.isArray(v)
    ? v.map((row, i) => [String(plain(row) ? i : row.name ?? row.group ?? row.caller ?? i), row])
    : Object.entries(v);
  box.append(list.length ? rows(title, list) : el("p", "none", "dim"));
  return [el("h2", title.replaceAll("_", " ")), box];
}
function draw(status) {
  const counts = {}, parts = [];
  for (const [k, v] of Object.entries(status)) {
    if (plain(v)) counts[k] = v; else parts.push(...section(k, v));
  }
  if (Object.keys(counts).length) parts.unshift(...section("now", counts));
  main.replaceChildren(...parts);
}
async function poll() {
  const state = document.querySelector("#state");
  try {
    const r = await fetch("/status");
    draw(await r.json());
    state.textContent = "live";
    state.className = "dim";
  } catch (e) {
    state.textContent = "no answer: " + e;
    state.className = "bad";
  }
  setTimeout(poll, 2000);
}
poll();
