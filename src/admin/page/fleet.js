// The fleet, where there is one: whether its register (Redis) can be used, and where each group stands among the replicas.
const SHARING = {
  plenty: ["good", "leased in advance"],
  scarce: ["warn", "dealt out one by one"],
  alone: ["bad", "not shared"],
};

// Whoever holds or awaits anything has exchanged since.
const STALE_S = 60;

// A demo has its register in memory.
const redis = shared => shared.register === "memory" ? "The register in memory" : "Redis";

// An exchange takes less than a millisecond.
const briefly = seconds => seconds !== null && seconds < 0.001 ? "under 1\u00a0ms" : measured(seconds);

function fleet({ shared, quota: groups }) {
  $("fleet-part").hidden = !shared;
  if (!shared) return;
  lines($("register"), register(shared));
  // One that has had no request shares nothing yet.
  const rows = Object.entries(groups).filter(([, group]) => group.fleet && group.fleet.sharing !== null);
  rows.sort(([, a], [, b]) => (b.fleet.waiting ?? 0) - (a.fleet.waiting ?? 0));
  table($("fleet-groups"), ["Quota group", "How it is shared", "Replicas", "Held here", "Held by all", "Held by nobody", "Of dead replicas", "Waiting in the fleet"],
    rows.slice(0, MAX_GROUPS).map(([name, { fleet: of }]) => ({ key: name, cells: [name, sharing(of), ...[of.replicas, of.leased_here, of.leased, of.free].map(units), tally(of.limbo ?? 0, "kept until DevRev’s next answer", "warn"),
      of.waiting ? [{ text: number(of.waiting), look: "warn" }, byCaller(of.waiting_by_caller)] : tally(0)] })),
    "No group is shared yet: a group is shared from its first request on.");
}

const units = n => n === null ? [{ text: "–", look: "dim" }] : [number(n)];
const byCaller = waiting => Object.entries(waiting).sort((a, b) => b[1] - a[1]).slice(0, 4).map(([caller, n]) => caller + " " + number(n)).join(", ");

function sharing(of) {
  const [tone, word] = SHARING[of.sharing] ?? ["", of.sharing];
  // A replica without requests hears nothing new.
  const told = now() - (of.exchanged_at ?? now()), old = told < STALE_S ? null : "as it was " + about(told) + " ago";
  const why = of.alone_since === null ? old : "for " + about(now() - of.alone_since) + ": " + of.reason;
  return [{ text: word, look: tone }, why];
}

function register(shared) {
  const times = shared.p50_seconds === null ? null
    : "Half of the exchanges of the last 5 minutes took " + briefly(shared.p50_seconds) + ", ninety-nine of a hundred " + briefly(shared.p99_seconds) + "; " + briefly(shared.timeout_seconds) + " are allowed.";
  const state = {
    up: [redis(shared) + " can be used: replicas share the quota.", "good"],
    down: [redis(shared) + " has been unusable for " + about(now() - shared.since) + ": " + shared.reason + ". Each replica goes by DevRev’s answers alone.", "bad"],
    unknown: [redis(shared) + " has not been tried yet.", "dim"],
  }[shared.state] ?? [shared.state, ""];
  const ended = Object.entries(shared.exchanges).filter(([, n]) => n).map(([result, n]) => result + "\u00a0" + number(n)).join(", ");
  const alone = shared.alone_seconds ? "Not shared for " + about(shared.alone_seconds) + " in all since the start." : null;
  return [state, times && [times, "dim"], ended ? ["Exchanges of this replica: " + ended + "." + (shared.exchanges.conflict ? " A conflict comes on top of its exchange’s own result." : ""), "dim"] : null, alone && [alone, "dim"]];
}

// For what is seen first.
function fleetFact({ shared, quota: groups }) {
  if (!shared) return null;
  const item = { link: "#fleet", what: "Fleet", more: shared.p99_seconds === null ? "no exchange yet" : (shared.register === "memory" ? "in memory, p99 " : "Redis p99 ") + briefly(shared.p99_seconds) };
  if (shared.state === "down") return { ...item, value: redis(shared) + " cannot be used", more: "for " + about(now() - shared.since), tone: "warn" };
  const all = Object.values(groups).map(group => group.fleet).filter(Boolean);
  const alone = all.filter(of => of.sharing === "alone").length, most = Math.max(0, ...all.map(of => of.replicas ?? 0));
  if (alone) return { ...item, value: count(alone, "group") + " not shared", tone: "warn" };
  return { ...item, value: most ? count(most, "replica") : "nothing shared yet", tone: "" };
}

// For the card of a group.
function fleetNote({ fleet: of }) {
  if (!of || of.sharing === null) return null;
  if (of.sharing === "alone") return ["Not shared: this replica goes by DevRev’s answers alone.", "warn"];
  return ["Shared by " + count(of.replicas, "replica") + "; this one holds " + count(of.leased_here, "unit") + " of " + number(of.leased) + "." + (of.waiting ? " In the fleet " + count(of.waiting, "request waits", "requests wait") + "." : ""), "dim"];
}
