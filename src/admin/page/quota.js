// A group: who has used its window, where now is in it, its state, and who waits.
const STATES = {
  open: ["good", "open", "Enough quota: interactive requests are sent in the order in which they come, batch ones evenly until the reset."],
  spread: ["warn", "sharing", "The rest is dealt out evenly until the reset."],
  spent: ["bad", "used up", "No quota is left until the reset. Requests wait for it, as long as their callers allow."],
  paused: ["bad", "paused", "DevRev said to wait. Nothing is sent; requests wait."],
  probing: ["warn", "probing", "One request finds out whether DevRev accepts requests. The others wait for its answer."],
  ramping: ["good", "ramping up", "Requests are sent step by step: each success lets two more go."],
};

// If callers send their own tokens there may be many groups. Those that need attention come first.
const MAX_GROUPS = 24;
// So many are shown with all that is known.
const WHOLE_GROUPS = 2;

function quota(status) {
  const box = $("quota"), all = Object.entries(status.quota);
  const urgency = ([, group]) => group.waiting + (group.state === "open" ? 0 : 1);
  const groups = all.length > MAX_GROUPS ? all.sort((a, b) => urgency(b) - urgency(a)).slice(0, MAX_GROUPS) : all;
  const more = all.length - groups.length;
  $("quota-more").hidden = !more;
  setText($("quota-more"), "And " + count(more, "group") + " that need less attention.");
  if (!groups.length) {
    return box.replaceChildren(make("p", "card empty", "No group yet. Each token of a caller gets one with its first request."));
  }
  if (box.firstElementChild?.classList.contains("empty")) box.replaceChildren();
  // Of many, what matters of each, in a box that scrolls by itself, so that what is below is seen.
  const many = groups.length > WHOLE_GROUPS;
  setClass(box, many ? "cards many" : "cards");
  if (many) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
  each(box, groups, ([name]) => name, ([name]) => groupCard(name), (card, [, group]) => {
    card.group = group;
    updateGroup(card);
  });
}

function groupCard(name) {
  const card = make("article", "card"), head = make("div", "row head"), level = make("div", "row left"), pause = make("div", "paused");
  card.dataset.group = name;
  const button = make("button", "", "Resume now");
  button.type = "button";
  button.setAttribute("aria-label", "Resume quota group " + name + " now");
  button.addEventListener("click", () => resume(name, button));
  const parts = { state: make("span", "pill end"), level, count: make("span", "count"), of: make("span", "dim"), back: make("span", "end"), bar: bar(), key: make("ul", "key"),
    time: draw("svg", { class: "time", role: "img" }), notes: make("div", "notes"), what: make("span"), countdown: make("b"), pause };
  parts.time.append(draw("title", {}), draw("rect", { class: "all", y: 0, width: "100%", height: 6, rx: 3 }), draw("rect", { class: "passed", y: 0, height: 6, rx: 3 }),
    draw("rect", { class: "mark", y: -3, width: 2, height: 12 }), draw("text", { y: 22, x: 0 }), draw("text", { y: 22, class: "mark" }), draw("text", { y: 22, x: "100%", "text-anchor": "end" }));
  head.append(make("h3", "", name), parts.state);
  level.append(parts.count, parts.of, parts.back);
  pause.append(parts.what, parts.countdown, button);
  card.append(head, level, parts.bar, parts.key, parts.time, pause, parts.notes);
  return Object.assign(card, { parts });
}

function updateGroup({ group, parts }) {
  const [tone, word, why] = STATES[group.state] ?? ["", group.state, ""];
  setText(parts.state, word);
  setClass(parts.state, "pill end " + tone);
  parts.state.title = why;
  const whole = group.limit, known = isKnown(group);
  for (const node of [parts.level, parts.bar, parts.key, parts.time]) node.toggleAttribute("hidden", !known);
  if (known) {
    const gone = Math.max(0, whole - group.remaining), outside = Math.min(gone, group.external);
    const flight = Math.min(group.in_flight, group.remaining);
    const kept = Math.max(0, Math.min(group.remaining - flight, group.reserve - outside)), free = group.remaining - flight - kept;
    setText(parts.count, number(group.remaining));
    setText(parts.of, "of " + number(whole) + " left");
    const callers = Object.entries(group.used_by_caller).map(([name, n]) => [colour(name), n, name]);
    const own = callers.filter(([cls]) => cls !== "rest").sort((a, b) => b[1] - a[1]);
    const others = callers.filter(([cls]) => cls === "rest").reduce((all, [, n]) => all + n, 0);
    const named = own.reduce((all, [, n]) => all + n, 0) + others;
    const list = [
      ...own,
      ["rest", others, "others"],
      // Before the first answer, or without an answer; in a fleet mostly what the other replicas used.
      ["earlier", Math.max(0, gone - outside - named), group.fleet && group.fleet.sharing !== null ? "other replicas" : "earlier"],
      ["outside", outside, "outside revgate"],
      ["flight", flight, "under way"],
      ["free", free, "free"],
      ["reserve", kept, "kept for others"],
    ].filter(([cls, n]) => n || cls === "free");
    setBar(parts.bar, list.map(([cls, n]) => [cls, n / Math.max(1, whole)]), list.map(([, n, what]) => what + " " + number(n)).join(", "));
    each(parts.key, list, item => item[2] + item[0], () => swatched("li"), (node, item) => setSwatched(node, item[0], item[2] + " " + number(item[1])));
  }
  tickGroup({ group, parts });
}

const isKnown = group => group.limit !== null && group.resets_in_seconds !== null;
const waiters = group => Object.entries(group.waiting_by_caller).sort((a, b) => b[1] - a[1]);

// Updates what changes with time.
function tickGroup({ group, parts }) {
  const all = group.state === "paused", one = group.paused_operation;
  const until = all ? group.paused_until : one?.paused_until ?? null;
  const left = until === null ? 0 : until - now();
  parts.pause.hidden = !all && !one;
  setText(parts.what, all || !one ? "Requests are sent again in" : "Only " + one.operation + " is paused. It is sent again in");
  // paused_until is rounded up to whole seconds.
  setText(parts.countdown, span(Math.floor(left)));
  if (isKnown(group)) {
    const end = group.seen_at + group.resets_in_seconds;
    setText(parts.back, "full again in " + span(end - now()));
    tickWindow(parts.time, group.window_started_at ?? group.seen_at, end);
  }
  const waiting = group.waiting ? [count(group.waiting, "request waits", "requests wait") + ": " + waiters(group).map(([caller, n]) => caller + " " + number(n)).join(", "), "waiting warn"] : null;
  lines(parts.notes, [...notes(group), waiting, fleetNote(group)]);
}

// Where now is in the window.
function tickWindow(svg, start, end) {
  const [title, , passed, mark, from, here, to] = svg.children;
  const share = Math.max(0, Math.min(1, (now() - start) / Math.max(1, end - start))), at = (share * 100).toFixed(2) + "%";
  passed.setAttribute("width", at);
  mark.setAttribute("x", at);
  setText(title, percent(share) + " of the window has passed");
  setText(from, clock(start));
  setText(to, clock(end));
  from.toggleAttribute("hidden", share < 0.3);
  to.toggleAttribute("hidden", share > 0.7);
  here.setAttribute("x", at);
  here.setAttribute("text-anchor", share < 0.1 ? "start" : share > 0.9 ? "end" : "middle");
  setText(here, "now");
}

function notes(group) {
  const [, , why] = STATES[group.state] ?? [];
  if (group.limit === null) return [["Nothing is known of this quota yet: it comes with DevRev’s first answer.", "dim"]];
  if (group.resets_in_seconds === null) return [["A new window: DevRev’s next answer says how much is left.", "dim"]];
  const out = group.runs_out_at !== null && group.runs_out_at > now() ? ["At this rate it is used up in " + span(group.runs_out_at - now()) + ", at " + clock(group.runs_out_at) + ".", "warn"] : null;
  if (group.state !== "open") return [[why, "dim"], group.state === "spread" ? out : null];
  if (out) return [out];
  if (group.spreads_at !== null && group.spreads_at > now()) {
    return [["At this rate interactive calls go at once for another " + span(group.spreads_at - now()) + ", until " + clock(group.spreads_at) + "; then the rest is dealt out evenly.", "dim"]];
  }
  return [["At this rate it lasts until then.", "dim"]];
}

let adminKey = null;

async function resume(name, button) {
  button.disabled = true;
  try {
    const answer = await post("/quota/" + encodeURIComponent(name) + "/resume");
    if (answer === null) return;
    announce(answer.ok ? "Resumed " + name + ". The next request probes whether DevRev accepts requests again." : "Not resumed: " + await reason(answer));
    await poll();
  } catch (error) {
    announce("Not resumed: " + error.message);
  } finally {
    button.disabled = false;
  }
}

// Asks for the key only if the gateway requires it. Only this page keeps it, in memory.
async function post(path) {
  for (let why = "Others can reach this address, so actions need the admin key of the configuration."; ;) {
    const headers = adminKey === null ? {} : { Authorization: "Bearer " + adminKey };
    const answer = await fetch(path, { method: "POST", headers, signal: AbortSignal.timeout(5000) });
    if (answer.status !== 401) return answer;
    if (adminKey !== null) why = "That is not the admin key. Try again.";
    adminKey = await askKey(why);
    if (adminKey === null) return null;
  }
}

function askKey(why) {
  const dialog = $("ask"), form = $("ask-form"), key = $("key");
  setText($("ask-why"), why);
  key.value = "";
  dialog.showModal();
  return new Promise(done => {
    form.onsubmit = event => {
      event.preventDefault();
      const given = key.value;
      key.value = "";
      done(given);
      dialog.close();
    };
    $("ask-no").onclick = () => dialog.close();
    dialog.onclose = () => done(null);
  });
}

async function reason(answer) {
  try { return (await answer.json()).error; } catch { return "status " + answer.status; }
}

function announce(text) {
  const banner = $("said");
  banner.hidden = false;
  setText(banner, text);
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => { banner.hidden = true; }, 10000);
}
