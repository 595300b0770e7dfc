// A colour for each of the busiest callers. A caller keeps its colour as long as it is one of them.
const COLOURS = 6;
const coloured = new Map();

function giveColours(status) {
  const names = status.traffic.callers.map(one => one.caller).filter(name => name !== null);
  for (const name of coloured.keys()) if (!names.includes(name)) coloured.delete(name);
  // By name, so that most who look see the same.
  for (const name of [...names].sort()) {
    if (coloured.has(name)) continue;
    const taken = [...coloured.values()];
    const free = Array.from({ length: COLOURS }, (_, n) => n).find(n => !taken.includes(n));
    if (free !== undefined) coloured.set(name, free);
  }
}

const colour = name => coloured.has(name) ? "c" + coloured.get(name) : "rest";
