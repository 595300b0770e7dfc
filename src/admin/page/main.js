// Asks every two seconds while somebody looks, and says so when there is no answer.
const EVERY = 2000, OLD = 7;
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
    if (document.visibilityState === "visible") timer = setTimeout(poll, EVERY);
  }
}

function show(status) {
  // Spans are turned to moments, so that they can be counted down between two answers.
  for (const group of Object.values(status.quota)) group.seen_at = status.now;
  const circuit = status.upstream.circuit;
  circuit.probe_at = status.now + (circuit.next_probe_in_seconds ?? 0);
  $("main").hidden = false;
  for (const part of [header, traffic, quota, callers, upstream, tokens, reload, deprecations]) part(status);
}

function header(status) {
  const words = status.ready ? "ready" : status.reasons.join(", ") || "not ready";
  say($("ready"), words);
  look($("ready"), "pill " + (status.ready ? "good" : "bad"));
}

// Between two answers only time passes.
function tick() {
  const silent = heard === null ? null : (Date.now() - heard) / 1000, old = silent === null || silent > OLD;
  document.body.classList.toggle("old", old && last !== null);
  $("stale").hidden = !(old && (last !== null || !asking));
  if (old) {
    say($("stale"), last === null ? "The gateway does not answer." : "The gateway has not answered since " + new Date(heard).toLocaleTimeString("en-GB") + ". What you see is from then.");
    say($("live"), "");
  }
  if (last === null) return;
  if (old) {
    say($("ready"), "no answer");
    look($("ready"), "pill bad");
    return;
  }
  say($("live"), silent < 4 ? "live" : "last answer " + Math.floor(silent) + " s ago");
  say($("since"), "version " + last.version + ", up for " + about(now() - last.started_at));
  for (const card of $("quota").children) if (card.parts) tickGroup(card);
  upstream(last);
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") poll();
  else clearTimeout(timer);
});
setInterval(() => { if (document.visibilityState === "visible") tick(); }, 1000);
poll();
