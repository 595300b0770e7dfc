"use strict";
// Only this file changes the document, and it inserts text only as text, since names come from files and callers.
const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function make(tag, cls, text) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  if (text !== undefined) node.textContent = text;
  return node;
}

function draw(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// Unchanged nodes stay untouched, so that a selection, the focus and a screen reader's position survive an update.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setClass(node, cls) {
  if (node.className !== cls) node.className = cls;
}

// Keeps one child for each item, in the order of the items. Children are created once and updated then.
function each(parent, items, key, create, update) {
  const old = new Map();
  for (const child of parent.children) old.set(child.itemKey, child);
  items.forEach((item, place) => {
    const name = String(key(item));
    let child = old.get(name);
    old.delete(name);
    if (!child) {
      child = create(item);
      child.itemKey = name;
    }
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
    update(child, item);
  });
  for (const child of old.values()) child.remove();
}

// Lines of text, each a text or [text, class]. `null` is left out.
function lines(parent, list) {
  const shown = list.filter(line => line !== null).map(line => Array.isArray(line) ? line : [line, ""]);
  each(parent, shown.map((line, place) => ({ line, place })), item => item.place, () => make("p"), (node, item) => {
    setText(node, item.line[0]);
    setClass(node, item.line[1]);
  });
}

// A table whose cells are lists of lines: the first is the value, the others explain it. A column is a text, or [text, what a click on its
// head does]. On a narrow screen CSS makes each row a card, which removes a table's implicit roles, so they are explicit.
function table(parent, columns, rows, empty) {
  if (!rows.length) {
    if (!parent.firstElementChild || parent.firstElementChild.tagName !== "P") parent.replaceChildren(make("p", "empty"));
    return setText(parent.firstElementChild, empty);
  }
  let body = parent.querySelector("tbody");
  if (!body) {
    const whole = make("table"), head = make("thead"), row = make("tr");
    [whole, head, row].forEach((node, i) => node.setAttribute("role", ["table", "rowgroup", "row"][i]));
    for (const column of columns) {
      const [name, sort] = [column].flat(), cell = make("th", "", sort ? undefined : name);
      cell.scope = "col";
      cell.setAttribute("role", "columnheader");
      if (sort) {
        const button = make("button", "", name);
        button.type = "button";
        button.addEventListener("click", sort);
        cell.append(button);
      }
      row.append(cell);
    }
    body = make("tbody");
    body.setAttribute("role", "rowgroup");
    head.append(row);
    whole.append(head, body);
    parent.replaceChildren(whole);
  }
  const create = () => {
    const row = make("tr");
    row.setAttribute("role", "row");
    columns.forEach((column, place) => {
      const cell = make(place ? "td" : "th");
      cell.setAttribute("role", place ? "cell" : "rowheader");
      if (place) cell.dataset.label = [column].flat()[0];
      else cell.scope = "row";
      row.append(cell);
    });
    return row;
  };
  each(body, rows, row => row.key, create, (node, row) => {
    row.cells.forEach((cell, place) => fill(node.children[place], cell));
  });
}

// Says by which column, if any, the rows are sorted.
function markSorted(parent, column) {
  parent.querySelectorAll("thead th").forEach((cell, place) => {
    if (place === column) cell.setAttribute("aria-sort", "descending");
    else cell.removeAttribute("aria-sort");
  });
}

function fill(cell, parts) {
  const shown = [parts].flat(1).filter(part => part !== null && part !== "");
  each(cell, shown.map((part, place) => ({ part, place })),
    item => item.place + (item.part.bar ? "bar" : item.part.swatch ? "swatch" : ""),
    item => item.part.bar ? bar("thin") : item.part.swatch ? swatched() : make(item.place ? "small" : "span"),
    (node, item) => {
      if (item.part.bar) return setBar(node, item.part.bar, item.part.label);
      if (item.part.swatch) return setSwatched(node, item.part.swatch, item.part.text);
      setText(node, item.part.text ?? String(item.part));
      setClass(node, item.part.look ?? "");
    });
}

// A text with its colour.
function swatched(tag) {
  const node = make(tag ?? "span");
  node.append(make("i"), make("span"));
  return node;
}

function setSwatched(node, cls, text) {
  setClass(node.firstChild, "swatch " + cls);
  setText(node.lastChild, text);
}

// A bar of parts, each [class, share from 0 to 1].
function bar(cls) {
  const node = draw("svg", { class: "bar " + (cls ?? ""), role: "img" });
  node.append(draw("title", {}));
  return node;
}

function setBar(node, parts, label) {
  setText(node.firstChild, label);
  let left = 0;
  parts.forEach(([cls, share], place) => {
    const rect = node.children[place + 1] ?? node.appendChild(draw("rect", { y: 0, height: "100%" }));
    const width = Math.max(0, Math.min(1 - left, share));
    rect.setAttribute("class", cls);
    rect.setAttribute("x", (left * 100).toFixed(2) + "%");
    rect.setAttribute("width", (width * 100).toFixed(2) + "%");
    left += width;
  });
  for (const surplus of [...node.children].slice(parts.length + 1)) surplus.remove();
}
