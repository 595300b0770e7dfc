// A group: its window as a bar, what it does, and who waits.
const STATES = {
  open: ["good", "open", "Quota in plenty: whoever comes first is sent first."],
  spread: ["warn", "sharing", "What is left is dealt out evenly until the reset, by weight."],
  spent: ["bad", "used up", "Nothing is left until the reset. Requests wait for it, as long as their callers allow."],
  paused: ["bad", "paused", "DevRev asked for silence. Nothing is sent; requests wait."],
  probing: ["warn", "probing", "The next request finds out whether DevRev takes calls again; others wait for it."],
  ramping: ["warn", "ramping up", "DevRev takes calls again; each success lets two more go."],
};

// Where callers bring their own tokens, groups are without number: those come first that somebody should look at.
const MOST = 24;

function quota(status) {
  const box = $("quota"), all = Object.entries(status.quota);
  const urgency = ([, group]) => group.waiting + (group.state === "open" ? 0 : 1);
  const groups = all.length > MOST ? all.sort((a, b) => urgency(b) - urgency(a)).slice(0, MOST) : all;
  const more = all.length - groups.length;
  $("quota-more").hidden = !more;
  say($("quota-more"), "And " + count(more, "group") + " with nothing to see to, or less of it.");
  if (!groups.length) {
    return box.replaceChildren(make("p", "card empty", "No group yet. Each token that callers bring gets one with its first request."));
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
  const parts = { state: make("span", "pill end"), why: make("p", "dim"), left: make("p"), bar: bar(), key: make("ul", "key"), time: make("div"), waiting: make("div"), countdown: make("b"), pause };
  head.append(make("h3", "", name), parts.state);
  pause.append(make("span", "", "DevRev takes calls again in"), parts.countdown, button);
  card.append(head, parts.why, parts.left, parts.bar, parts.key, parts.time, pause, parts.waiting);
  return Object.assign(card, { parts });
}

function updateGroup({ group, parts }) {
  const [tone, word, why] = STATES[group.state] ?? ["", group.state, ""];
  say(parts.state, word);
  look(parts.state, "pill end " + tone);
  say(parts.why, why);
  const whole = group.limit, known = group.limit !== null && group.resets_in_seconds !== null;
  for (const node of [parts.left, parts.bar, parts.key]) node.toggleAttribute("hidden", !known);
  if (known) {
    const gone = Math.max(0, whole - group.remaining), outside = Math.min(gone, group.external);
    const flight = Math.min(group.in_flight, group.remaining);
    const kept = Math.max(0, Math.min(group.remaining - flight, group.reserve - outside)), free = group.remaining - flight - kept;
    if (!parts.left.firstChild) parts.left.append(make("span", "count"), make("span", "dim"));
    say(parts.left.firstChild, number(group.remaining));
    say(parts.left.lastChild, " of " + number(whole) + " requests left");
    const list = [
      ["used", gone - outside, "used"],
      ["outside", outside, "used outside revgate"],
      ["flight", flight, "under way"],
      ["", free, "free"],
      ["reserve", kept, "kept for others"],
    ];
    setBar(parts.bar, list.map(([cls, n]) => [cls || "free", n / Math.max(1, whole)]), list.map(([, n, what]) => number(n) + " " + what).join(", "));
    const told = list.filter(([cls, n]) => n || cls === "used" || !cls);
    each(parts.key, told, item => item[2], item => {
      const node = make("li");
      node.append(make("i", item[0]), make("span"));
      return node;
    }, (node, item) => say(node.lastChild, number(item[1]) + " " + item[2]));
  }
  const waiting = Object.entries(group.waiting_by_caller).sort((a, b) => b[1] - a[1]);
  lines(parts.waiting, group.waiting
    ? [[count(group.waiting, "request waits", "requests wait") + ": " + waiting.map(([caller, n]) => caller + " " + number(n)).join(", "), "waiting"]]
    : [["Nobody waits.", "dim waiting"]]);
  tickGroup({ group, parts });
}

// What changes with time alone.
function tickGroup({ group, parts }) {
  const left = group.paused_until === null ? 0 : group.paused_until - now();
  parts.pause.hidden = group.state !== "paused";
  // The moment is told in whole seconds, rounded up.
  say(parts.countdown, span(Math.floor(left)));
  lines(parts.time, times(group));
}

function times(group) {
  if (group.limit === null) return [["Nothing is known of this quota yet: DevRev tells it with its first answer.", "dim"]];
  if (group.resets_in_seconds === null) return [["A new window: DevRev’s next answer tells what is left.", "dim"]];
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
    announce(answer.ok ? "Resumed " + name + ". The next request finds out whether DevRev takes calls again." : "Not resumed: " + await reason(answer));
    await poll();
  } catch (error) {
    announce("Not resumed: " + error.message);
  } finally {
    button.disabled = false;
  }
}

// The key is asked for only where the gateway asks for it, and is kept only by this page.
async function post(path) {
  for (let why = "This address is open to others, so acting on it takes the admin key of the configuration."; ;) {
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
  say($("ask-why"), why);
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
  const said = $("said");
  said.hidden = false;
  say(said, text);
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => { said.hidden = true; }, 10000);
}
