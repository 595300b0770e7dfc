// The sections below: callers, upstream, tokens, configuration, deprecated use.
const SORTS = {
  1: c => [c.share ?? -1, c.requests],
  2: c => [c.waiting ?? -1, c.share ?? -1],
  5: c => [c.requests],
};
let sorted = 1, shownCallers = null;

function sortBy(column) {
  sorted = column;
  callers(shownCallers);
}

const COLUMNS = [
  "Caller", ["Share of quota", () => sortBy(1)], ["Waiting", () => sortBy(2)], "Wait p50", "Wait p95", ["Requests", () => sortBy(5)], "Refused", "Own rate", "Deprecated",
];

function callers(status) {
  shownCallers = status;
  const rank = SORTS[sorted], rows = Object.entries(status.callers).map(([name, c]) => [name, c, rank(c)]);
  rows.sort(([one, , a], [other, , b]) => {
    const place = a.findIndex((value, i) => value !== b[i]);
    return place < 0 ? (one < other ? -1 : 1) : b[place] - a[place];
  });
  table($("callers"), COLUMNS, rows.map(([name, c]) => ({ key: name, cells: c.rate === undefined ? unnamed(name, c) : caller(name, c, Object.keys(status.quota).length > 1) })),
    "No callers: the configuration names none, and there were no requests.");
  markSorted($("callers"), sorted);
}

const named = name => ({ swatch: colour(name), text: name });

function caller(name, c, ofMany) {
  const full = c.remaining === null ? 1 : c.remaining / c.burst;
  return [
    [named(name), "weight " + number(c.weight) + ", " + c.priority + seen(c), c.enforce ? null : { text: "on trial", look: "warn" }],
    c.share === null ? [{ text: "none lately", look: "dim" }] : [percent(c.share), { bar: [[colour(name), c.share]], label: percent(c.share) + " of " + c.group + " in the last 15 minutes" }, ofMany ? "of " + c.group : null],
    tally(c.waiting, "", "warn"),
    ...waits(c),
    tally(c.requests),
    refusals(c),
    [c.rate, full === 1 ? null : { text: number(c.remaining) + " of " + number(c.burst) + " left", look: full > 0 ? "" : "warn" }],
    old(c),
  ];
}

// Requests without a known caller; in mode "validate", all of them.
function unnamed(name, c) {
  const none = { text: "–", look: "dim" };
  return [[named(name), "not in the file" + seen(c)], none, none, ...waits(c), tally(c.requests), refusals(c), none, old(c)];
}

// The last minutes. Half of the requests waited no longer than the first, nineteen of twenty no longer than the second.
function waits({ waits: { p50_seconds: half, p95_seconds: most } }) {
  const long = seconds => ({ text: measured(seconds), look: seconds === null || seconds === 0 ? "dim" : seconds >= 10 ? "warn" : "" });
  return [[long(half)], [long(most)]];
}

function refusals(c) {
  const would = c.would_refuse ? "would refuse " + number(c.would_refuse) + ": " + byCode(c.would_refuse_by_code) : null;
  return [...tally(c.refused, byCode(c.refused_by_code)), would];
}

// Calls that used something deprecated, the fields in them, and the refused calls apart.
function old(c) {
  if (!c.deprecated && !c.deprecated_refused) return [{ text: "0", look: "dim" }];
  return [count(c.deprecated, "call"), c.deprecated_fields ? count(c.deprecated_fields, "field") : null, c.deprecated_refused ? number(c.deprecated_refused) + " refused" : null];
}

// Whoever calls all the time is not worth a word.
const seen = c => c.last_seen === null ? ", not seen yet" : now() - c.last_seen < 60 ? "" : ", seen " + ago(c.last_seen);

function tally(n, why, tone) {
  return [{ text: number(n), look: n ? tone ?? "" : "dim" }, n ? why || null : null];
}

function upstream({ upstream: { url, circuit, answers } }) {
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
  const times = answers.p50_seconds === null ? null
    : ["DevRev answers in " + measured(answers.p50_seconds) + " (half of the attempts of the last 5 minutes), " + measured(answers.p95_seconds) + " (nineteen of twenty).", "dim"];
  lines($("upstream"), [[url, ""], line, times, ...stopped]);
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
  const rows = [...status.deprecated_calls].sort((a, b) => b.calls - a.calls || b.last_seen - a.last_seen);
  table($("deprecations"), ["Caller", "Operation", "What is deprecated", "Calls", "Refused", "Last"], rows.map(row => {
    const fields = Object.entries(row.fields).map(([name, n]) => name + " " + number(n)).join(", ");
    const what = [row.operation_deprecated ? "the operation itself" : null, fields ? "fields " + fields : null].filter(Boolean);
    return { key: JSON.stringify([row.caller, row.operation]), cells: [row.caller, row.operation, what, tally(row.calls), tally(row.refused), ago(row.last_seen)] };
  }), "No deprecated fields or operations seen.");
}
