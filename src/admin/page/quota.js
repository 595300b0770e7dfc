// A group: its window as a bar, its state, and how many requests wait.
const STATES = {
  open: ["good", "open", "Enough quota: requests are sent in the order in which they come."],
  spread: ["warn", "sharing", "The rest of the quota is spread evenly until the reset, and shared by weight."],
  spent: ["bad", "used up", "No quota is left until the reset. Requests wait for it, as long as their callers allow."],
  paused: ["bad", "paused", "DevRev said to wait. Nothing is sent; requests wait."],
  probing: ["warn", "probing", "One request probes whether DevRev accepts requests again. The others wait for its answer."],
  ramping: ["warn", "ramping up", "DevRev accepts requests again. Each success lets two more go."],
};

// If callers send their own tokens there may be many groups. Those that need attention come first.
const MAX_GROUPS = 24;

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
  each(box, groups, ([name]) => name, ([name]) => groupCard(name), (card, [, group]) => {
    card.group = group;
    updateGroup(card);
  });
}

function groupCard(name) {
  const card = make("article", "card"), head = make("div", "row"), pause = make("div", "paused");
  card.dataset.group = name;
  const button = make("button", "", "Resume now");
  button.type = "button";
  button.setAttribute("aria-label", "Resume quota group " + name + " now");
  button.addEventListener("click", () => resume(name, button));
  const parts = { state: make("span", "pill end"), why: make("p", "dim"), left: make("p"), bar: bar(), key: make("ul", "key"), time: make("div"), waiting: make("div"), what: make("span"), countdown: make("b"), pause };
  head.append(make("h3", "", name), parts.state);
  pause.append(parts.what, parts.countdown, button);
  card.append(head, parts.why, parts.left, parts.bar, parts.key, parts.time, pause, parts.waiting);
  return Object.assign(card, { parts });
}

function updateGroup({ group, parts }) {
  const [tone, word, why] = STATES[group.state] ?? ["", group.state, ""];
  setText(parts.state, word);
  setClass(parts.state, "pill end " + tone);
  setText(parts.why, why);
  const whole = group.limit, known = group.limit !== null && group.resets_in_seconds !== null;
  for (const node of [parts.left, parts.bar, parts.key]) node.toggleAttribute("hidden", !known);
  if (known) {
    const gone = Math.max(0, whole - group.remaining), outside = Math.min(gone, group.external);
    const flight = Math.min(group.in_flight, group.remaining);
    const kept = Math.max(0, Math.min(group.remaining - flight, group.reserve - outside)), free = group.remaining - flight - kept;
    if (!parts.left.firstChild) parts.left.append(make("span", "count"), make("span", "dim"));
    setText(parts.left.firstChild, number(group.remaining));
    setText(parts.left.lastChild, " of " + number(whole) + " requests left");
    const list = [
      ["used", gone - outside, "used"],
      ["outside", outside, "used outside revgate"],
      ["flight", flight, "under way"],
      ["", free, "free"],
      ["reserve", kept, "kept for others"],
    ];
    setBar(parts.bar, list.map(([cls, n]) => [cls || "free", n / Math.max(1, whole)]), list.map(([, n, what]) => number(n) + " " + what).join(", "));
    const shown = list.filter(([cls, n]) => n || cls === "used" || !cls);
    each(parts.key, shown, item => item[2], item => {
      const node = make("li");
      node.append(make("i", item[0]), make("span"));
      return node;
    }, (node, item) => setText(node.lastChild, number(item[1]) + " " + item[2]));
  }
  const waiting = Object.entries(group.waiting_by_caller).sort((a, b) => b[1] - a[1]);
  lines(parts.waiting, group.waiting
    ? [[count(group.waiting, "request waits", "requests wait") + ": " + waiting.map(([caller, n]) => caller + " " + number(n)).join(", "), "waiting"]]
    : [["No request waits.", "dim waiting"]]);
  tickGroup({ group, parts });
}

// Updates what changes with time.
function tickGroup({ group, parts }) {
  const all = group.state === "paused", one = group.paused_operation;
  const until = all ? group.paused_until : one?.paused_until ?? null;
  const left = until === null ? 0 : until - now();
  parts.pause.hidden = !all && !one;
  setText(parts.what, all || !one ? "Requests are sent again in" : "Only " + one.operation + " is paused. It is sent again in");
  // paused_until is rounded up to whole seconds.
  setText(parts.countdown, span(Math.floor(left)));
  lines(parts.time, times(group));
}

function times(group) {
  if (group.limit === null) return [["Nothing is known of this quota yet: it comes with DevRev’s first answer.", "dim"]];
  if (group.resets_in_seconds === null) return [["A new window: DevRev’s next answer says how much is left.", "dim"]];
  const end = group.seen_at + group.resets_in_seconds;
  const reset = "Full again in " + span(end - now()) + ", at " + clock(end) + ".";
  if (group.state === "paused" || group.state === "spent") return [reset];
  if (group.runs_out_at !== null && group.runs_out_at > now()) {
    return [reset, ["At this rate it is used up in " + span(group.runs_out_at - now()) + ", at " + clock(group.runs_out_at) + ".", "warn"]];
  }
  return [reset, ["At this rate it lasts until then.", "dim"]];
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
