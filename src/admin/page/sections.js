// The sections below the quota: callers, upstream, tokens, configuration, deprecated use.
const COLUMNS = ["Caller", "Own rate", "Share of quota", "Waiting", "Requests", "Refused", "Would refuse", "Deprecated"];

function callers(status) {
  const rows = Object.entries(status.callers).sort(([, a], [, b]) => b.requests - a.requests || 0);
  table($("callers"), COLUMNS, rows.map(([name, c]) => ({ key: name, cells: c.rate === undefined ? unnamed(name, c) : caller(name, c) })),
    "No callers: the configuration names none, and there were no requests.");
}

function caller(name, c) {
  const full = c.remaining === null ? 1 : c.remaining / c.burst;
  return [
    [name, "weight " + number(c.weight) + ", " + c.priority, seen(c), c.enforce ? null : { text: "rules are on trial, not enforced", look: "warn" }],
    [c.rate, ...(c.remaining === null ? [] : [
      { bar: [["used", 1 - full]], label: percent(1 - full) + " of the burst in use" },
      { text: number(c.remaining) + " of " + number(c.burst) + " left now", look: full > 0 ? "" : "warn" },
    ])],
    c.share === null ? [{ text: "none lately", look: "dim" }] : [percent(c.share), { bar: [["used", c.share]], label: percent(c.share) }, "of " + c.group + ", last 15 min"],
    tally(c.waiting, "", "warn"),
    tally(c.requests),
    tally(c.refused, byCode(c.refused_by_code)),
    tally(c.would_refuse, byCode(c.would_refuse_by_code)),
    tally(c.deprecated),
  ];
}

// Requests without a known caller; in mode "validate", all of them.
function unnamed(name, c) {
  const none = { text: "–", look: "dim" };
  return [[name, "not in the configuration", seen(c)], none, none, none, tally(c.requests), tally(c.refused, byCode(c.refused_by_code)), none, tally(c.deprecated)];
}

const seen = c => c.last_seen === null ? "not seen yet" : "seen " + ago(c.last_seen);

function tally(n, why, tone) {
  return [{ text: number(n), look: n ? tone ?? "" : "dim" }, n ? why || null : null];
}

function upstream({ upstream: { url, circuit } }) {
  const since = status => status.next_probe_in_seconds === null ? "" : " Next try in " + span(circuit.probe_at - now()) + ".";
  const line = {
    closed: circuit.failures
      ? ["Calls go through, with " + count(circuit.failures, "failure") + " in a row so far.", "warn"]
      : ["Working: no attempt has failed recently.", "good"],
    open: ["Nothing is sent: " + count(circuit.failures, "failure") + " in a row." + since(circuit), "bad"],
    half_open: ["One request probes whether DevRev works again. Others are refused.", "warn"],
  }[circuit.state] ?? [circuit.state, ""];
  const stopped = circuit.stopped.slice(0, SHOWN_CIRCUITS).map(one => [stop(one), "warn"]);
  const more = circuit.stopped_total - stopped.length;
  if (more > 0) stopped.push(["And " + number(more) + " more like these.", "warn"]);
  lines($("upstream"), [[url, ""], line, ...stopped]);
}

const SHOWN_CIRCUITS = 8;

// A circuit that stops less than everything.
function stop(one) {
  const what = one.operation === "other" ? "an unknown operation" : one.operation ?? "everything";
  const next = one.probe_at > now() ? " Next try in " + span(one.probe_at - now()) + "." : " The next call is a try.";
  return "Failing and stopped: " + what + (one.caller === null ? ", for all." : ", for " + one.caller + " alone.") + next;
}

const EXPIRY = { valid: ["good", "valid"], expires_soon: ["warn", "expires soon"], expired: ["bad", "expired"], unknown: ["dim", "tells no expiry"] };

function tokens(status) {
  table($("tokens"), ["Token", "Quota group", "State"], Object.entries(status.tokens).map(([name, token]) => {
    const [tone, word] = EXPIRY[token.state] ?? ["", token.state], at = token.expires_at;
    const left = at === null ? null : at > now() ? date(at) + ", in " + about(at - now()) : date(at) + ", " + about(now() - at) + " ago";
    const refused = token.refused ? { text: "DevRev refuses it; its callers get 503", look: "bad" } : null;
    return { key: name, cells: [name, token.quota_group, [{ text: word, look: tone }, left, refused]] };
  }), "No tokens: callers bring their own.");
}

const RELOADS = {
  applied: ["Reloaded", "The file is in use.", "good"],
  unchanged: ["Reloaded", "Nothing in the file had changed.", "dim"],
  refused: ["A reload was refused", "The configuration from before goes on.", "bad"],
};

function reload({ reload: last, started_at }) {
  if (last.at === null) {
    return lines($("reload"), ["As read at the start, " + date(started_at) + ".", ["Not reloaded since.", "dim"]]);
  }
  const [what, why, tone] = RELOADS[last.result] ?? ["Reload: " + last.result, "", ""];
  const keys = (words, list, look) => list?.length ? [words + list.join(", ") + ".", look] : null;
  lines($("reload"), [
    what + " " + ago(last.at) + ", " + date(last.at) + ".",
    ...last.problems.map(({ path, message }) => [(path ? path + " " : "") + message, "bad"]),
    why && [why, tone],
    keys("Changed: ", last.changed, ""),
    keys("Changed too, but used only after a restart: ", last.restart_needed, "warn"),
  ].filter(Boolean));
}

function deprecations(status) {
  const rows = [...status.deprecations].sort((a, b) => b.last_seen - a.last_seen);
  table($("deprecations"), ["Caller", "Operation", "What is deprecated", "Uses", "Last"], rows.map(row => ({
    key: JSON.stringify([row.caller, row.operation, row.field]),
    cells: [row.caller, row.operation, row.field === null ? "the operation itself" : "field " + row.field, number(row.count), ago(row.last_seen)],
  })), "No deprecated fields or operations seen.");
}
