// What is seen first: the alerts, and four facts, or five in a fleet.
let announced = null;

function alerts(status) {
  const list = $("alerts"), items = status.alerts.map(alert => ({ ...alert, key: alert.name + " " + (alert.subject ?? "") }));
  if (!items.length) items.push({ key: "calm", calm: true });
  each(list, items, item => item.key + item.severity, item => {
    const node = make("li", item.severity ?? "calm");
    if (item.calm) {
      node.append(make("span", "", "Nothing needs attention."));
      return node;
    }
    const link = make("a");
    link.href = item.link;
    link.append(make("span"), make("b"));
    node.append(link);
    return node;
  }, (node, item) => {
    if (item.calm) return;
    node.alert = item;
    setText(node.firstChild.firstChild, item.text[0].toUpperCase() + item.text.slice(1));
    node.firstChild.title = item.since === null ? "" : "Since " + date(item.since) + ", " + about(now() - item.since);
  });
  tickAlerts();
  // Only what is new is announced, and no countdown.
  const said = status.alerts.map(alert => alert.severity + ": " + alert.text).join(". ");
  if (announced !== said) setText($("alerts-said"), said || (announced ? "Nothing needs attention." : ""));
  announced = said;
}

function tickAlerts() {
  for (const { alert, firstChild } of $("alerts").children) {
    if (!alert) continue;
    const left = alert.next_at === null ? 0 : alert.next_at - now();
    const due = alert.next === "next probe" ? " · the next call is the probe" : "";
    setText(firstChild.lastChild, alert.next === null ? "" : left > 0 ? " · " + (alert.next === "expires" ? "" : alert.next + " ") + "in " + span(left) : due);
  }
}

function vitals(status) {
  const list = [devrev(status.upstream), fleetFact(status), expiry(status.tokens), deprecatedUse(status), file(status)].filter(Boolean);
  each($("vitals"), list, item => item.link, item => {
    const node = make("li"), link = make("a");
    link.href = item.link;
    link.append(make("span", "what"), make("b"), " ", make("span", "more"));
    node.append(link);
    return node;
  }, (node, item) => {
    const [what, value, more] = node.firstChild.children;
    setText(what, item.what);
    setText(value, item.value);
    setClass(value, item.tone);
    setText(more, item.more);
  });
}

function devrev({ circuit, answers }) {
  const times = answers.p50_seconds === null ? "in the last 5 minutes" : "p95 " + measured(answers.p95_seconds);
  const item = { link: "#upstream", what: "DevRev", more: times };
  if (circuit.state !== "closed") return { ...item, value: "circuit open", tone: "bad" };
  if (circuit.stopped_total) return { ...item, value: count(circuit.stopped_total, "circuit") + " open", tone: "warn" };
  return { ...item, value: answers.p50_seconds === null ? "no answer" : "answers in " + measured(answers.p50_seconds), tone: "" };
}

// The token that needs attention first.
function expiry(tokens) {
  const item = { link: "#tokens", what: "Token" }, all = Object.entries(tokens);
  if (!all.length) return { ...item, value: "none held", more: "callers bring their own", tone: "" };
  const end = token => token.refused ? -1 : token.expires_at ?? Infinity;
  const [name, first] = all.sort(([, a], [, b]) => end(a) - end(b))[0], others = all.length > 1 ? ", first of " + all.length : "";
  if (first.refused) return { ...item, value: "refused by DevRev", more: name + others, tone: "bad" };
  if (first.expires_at === null) return { ...item, value: "tells no expiry", more: name + others, tone: "" };
  if (first.state === "expired") return { ...item, value: "expired " + ago(first.expires_at), more: name + others, tone: "bad" };
  const soon = first.state === "expires_soon";
  return { ...item, value: "expires in " + about(first.expires_at - now()), more: name + others, tone: soon ? "warn" : "" };
}

function deprecatedUse({ deprecated_calls: rows }) {
  const item = { link: "#deprecations", what: "Deprecated use" }, calls = rows.filter(row => row.calls);
  if (!calls.length) return { ...item, value: "none", more: rows.length ? "only refused calls" : "since the start", tone: "" };
  const names = [...new Set(calls.map(row => row.caller))], shown = names.slice(0, 2).join(", ");
  const all = calls.reduce((sum, row) => sum + row.calls, 0);
  return { ...item, value: count(all, "call"), more: names.length > 2 ? shown + " and " + (names.length - 2) + " more" : shown, tone: "" };
}

function file({ reload: last, started_at }) {
  const item = { link: "#reload", what: "Configuration" };
  if (last.at === null) return { ...item, value: "as at the start", more: ago(started_at), tone: "" };
  if (last.result === "refused") return { ...item, value: "reload refused", more: ago(last.at), tone: "bad" };
  const more = last.restart_needed.length ? "some keys need a restart" : ago(last.at);
  return { ...item, value: "reloaded", more, tone: last.restart_needed.length ? "warn" : "" };
}
