// Polls /status every two seconds while the page is visible, and shows when there is no answer.
const INTERVAL_MS = 2000, STALE_SECONDS = 7;
let last = null, heard = null, timer = null, asking = false;

async function poll() {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  try {
    const answer = await fetch("/status", { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error("status " + answer.status);
    const status = await answer.json();
    ahead = status.now - Date.now() / 1000;
    heard = Date.now();
    last = status;
    show(status);
  } catch (error) {
    console.debug("no answer", error);
  } finally {
    asking = false;
    tick();
    if (document.visibilityState === "visible") timer = setTimeout(poll, INTERVAL_MS);
  }
}

function show(status) {
  // Durations become points in time, so that they count down between two answers.
  for (const group of Object.values(status.quota)) group.seen_at = status.now;
  const circuit = status.upstream.circuit;
  for (const one of [circuit, ...circuit.stopped]) one.probe_at = status.now + (one.next_probe_in_seconds ?? 0);
  $("main").hidden = false;
  giveColours(status);
  for (const part of [header, alerts, vitals, traffic, quota, callers, fleet, upstream, tokens, reload, deprecations]) part(status);
}

const HEALTH = { ready: ["good", "ready"], troubled: ["warn", "ready, but look below"] };

function header(status) {
  const [tone, word] = HEALTH[status.health] ?? ["bad", status.reasons.join(", ") || "not ready"];
  setText($("ready"), word);
  setClass($("ready"), "pill " + tone);
  const serious = status.alerts.filter(alert => alert.severity === "serious").length;
  document.title = (serious || tone === "bad" ? "(!) " : "") + "revgate";
}

// Updates what changes with time, between two answers.
function tick() {
  const silent = heard === null ? null : (Date.now() - heard) / 1000, old = silent === null || silent > STALE_SECONDS;
  document.body.classList.toggle("old", old && last !== null);
  $("stale").hidden = !(old && (last !== null || !asking));
  if (old) {
    setText($("stale"), last === null ? "The gateway does not answer." : "The gateway has not answered since " + new Date(heard).toLocaleTimeString("en-GB") + ". This page shows the state of that time.");
    setText($("live"), "");
  }
  if (last === null) return;
  if (old) {
    setText($("ready"), "no answer");
    setClass($("ready"), "pill bad");
    return;
  }
  setText($("live"), silent < 4 ? "live" : "last answer " + Math.floor(silent) + " s ago");
  setText($("since"), "version " + last.version + ", up for " + about(now() - last.started_at));
  for (const card of $("quota").children) if (card.parts) tickGroup(card);
  tickAlerts();
  fleet(last);
  upstream(last);
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") poll();
  else clearTimeout(timer);
});
setInterval(() => { if (document.visibilityState === "visible") tick(); }, 1000);
poll();
