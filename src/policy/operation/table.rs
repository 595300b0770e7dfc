//! Every operation of DevRev's OpenAPI documents.

/// What the table says about an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub beta: bool,
    pub reads: bool,
    pub deprecated: bool,
}

pub(super) type Row = (&'static str, Facts);

/// The row of this name, in its usual spelling.
pub(super) fn find(name: &str) -> Option<&'static Row> {
    TABLE
        .binary_search_by(|row| row.0.cmp(name))
        .ok()
        .map(|at| &TABLE[at])
}

/// What was probably meant by a pattern (`works.*`, or a whole name) that matches no operation of the table; `None` if it matches one.
///
/// ```
/// use revgate::policy::operation::unknown;
///
/// assert_eq!(unknown("works.delete"), None);
/// assert_eq!(unknown("work.delete"), Some(Some("works.delete".to_owned())));
/// assert_eq!(unknown("work.*"), Some(Some("works.*".to_owned())));
/// assert_eq!(unknown("invented"), Some(None));
/// ```
pub fn unknown(pattern: &str) -> Option<Option<String>> {
    // With a path before it, as a server behind DevRev's may have one.
    let name = pattern.rsplit('/').next().unwrap_or(pattern);
    let names = TABLE.iter().map(|row| row.0);
    let (stem, all): (&str, Vec<&str>) = match name.strip_suffix(".*") {
        Some(stem) => (stem, names.flat_map(groups).collect()),
        None => (name, names.collect()),
    };
    if name == "*" || all.contains(&stem) {
        return None;
    }
    let ranked = all
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(known, stem), known));
    // Closer than most operations are to one another.
    let near = ranked
        .min()
        .filter(|(distance, _)| *distance <= 1 + stem.len() / 5);
    Some(near.map(|(_, known)| format!("{known}{}", &name[stem.len()..])))
}

/// What stands before each dot.
fn groups(name: &'static str) -> impl Iterator<Item = &'static str> {
    name.match_indices('.').map(move |(dot, _)| &name[..dot])
}

const fn facts(beta: bool, reads: bool, deprecated: bool) -> Facts {
    Facts {
        beta,
        reads,
        deprecated,
    }
}

const READ: Facts = facts(false, true, false);
const WRITE: Facts = facts(false, false, false);
const BETA_READ: Facts = facts(true, true, false);
const BETA_WRITE: Facts = facts(true, false, false);
/// Both deprecated operations write and are beta (beta changelog of 2025-03-27).
const OLD_WRITE: Facts = facts(true, false, true);

/// Sorted by name for the binary search.
#[rustfmt::skip]
static TABLE: &[Row] = &[
    ("accounts.create", WRITE), ("accounts.delete", WRITE), ("accounts.export", READ), ("accounts.get", READ),
    ("accounts.list", READ), ("accounts.merge", WRITE), ("accounts.update", WRITE),
    ("ai-agents.events.execute-async", BETA_WRITE), ("airdrop.sync-units.get", BETA_READ),
    ("airdrop.sync-units.history", BETA_READ), ("articles.count", BETA_READ), ("articles.create", WRITE),
    ("articles.delete", WRITE), ("articles.get", READ), ("articles.list", READ), ("articles.update", WRITE),
    ("artifacts.get", READ), ("artifacts.list", READ), ("artifacts.locate", READ), ("artifacts.prepare", WRITE),
    ("artifacts.versions.delete", WRITE), ("artifacts.versions.prepare", WRITE), ("atoms.get", READ),
    ("audit-logs.fetch", BETA_READ), ("auth-tokens.create", WRITE), ("auth-tokens.delete", WRITE),
    ("auth-tokens.get", READ), ("auth-tokens.info", READ), ("auth-tokens.list", READ),
    ("auth-tokens.self.delete", WRITE), ("auth-tokens.update", WRITE), ("brands.create", BETA_WRITE),
    ("brands.delete", BETA_WRITE), ("brands.get", BETA_READ), ("brands.list", BETA_READ),
    ("brands.update", BETA_WRITE), ("chats.create", WRITE), ("chats.get", READ), ("chats.update", WRITE),
    ("code-changes.create", WRITE), ("code-changes.delete", WRITE), ("code-changes.get", READ),
    ("code-changes.list", READ), ("code-changes.update", WRITE), ("commands.create", WRITE), ("commands.get", READ),
    ("commands.list", READ), ("commands.update", WRITE), ("content-template.create", BETA_WRITE),
    ("content-template.get", BETA_READ), ("content-template.list", BETA_READ), ("conversations.create", WRITE),
    ("conversations.delete", WRITE), ("conversations.export", BETA_READ), ("conversations.get", READ),
    ("conversations.list", READ), ("conversations.update", WRITE), ("custom-objects.count", READ),
    ("custom-objects.create", WRITE), ("custom-objects.delete", WRITE), ("custom-objects.get", READ),
    ("custom-objects.list", READ), ("custom-objects.update", WRITE), ("dev-orgs.auth-connections.create", WRITE),
    ("dev-orgs.auth-connections.delete", WRITE), ("dev-orgs.auth-connections.get", READ),
    ("dev-orgs.auth-connections.list", READ), ("dev-orgs.auth-connections.toggle", WRITE),
    ("dev-orgs.auth-connections.update", WRITE), ("dev-orgs.get", READ), ("dev-users.activate", WRITE),
    ("dev-users.create", WRITE), ("dev-users.deactivate", WRITE), ("dev-users.get", READ),
    ("dev-users.identities.link", WRITE), ("dev-users.identities.unlink", WRITE), ("dev-users.list", READ),
    ("dev-users.merge", WRITE), ("dev-users.self", READ), ("dev-users.self.update", WRITE),
    ("dev-users.update", WRITE), ("directories.count", READ), ("directories.create", WRITE),
    ("directories.delete", WRITE), ("directories.get", READ), ("directories.list", READ),
    ("directories.update", WRITE), ("engagements.count", BETA_READ), ("engagements.create", BETA_WRITE),
    ("engagements.delete", BETA_WRITE), ("engagements.get", BETA_READ), ("engagements.list", BETA_READ),
    ("engagements.update", BETA_WRITE), ("event-sources.get", BETA_READ), ("event-sources.schedule", BETA_WRITE),
    ("event-sources.unschedule", BETA_WRITE), ("groups.create", WRITE), ("groups.get", READ), ("groups.list", READ),
    ("groups.members.add", WRITE), ("groups.members.count", BETA_READ), ("groups.members.list", READ),
    ("groups.members.remove", WRITE), ("groups.update", WRITE), ("incidents.create", BETA_WRITE),
    ("incidents.delete", BETA_WRITE), ("incidents.get", BETA_READ), ("incidents.group", BETA_READ),
    ("incidents.list", BETA_READ), ("incidents.update", BETA_WRITE), ("jobs.get", READ), ("jobs.list", READ),
    ("keyrings.authorize", WRITE), ("link-types.custom.create", BETA_WRITE), ("link-types.custom.get", BETA_READ),
    ("link-types.custom.list", BETA_READ), ("link-types.custom.update", BETA_WRITE), ("links.create", WRITE),
    ("links.delete", WRITE), ("links.get", READ), ("links.list", READ), ("links.replace", WRITE),
    ("meetings.count", READ), ("meetings.create", WRITE), ("meetings.delete", WRITE), ("meetings.get", READ),
    ("meetings.list", READ), ("meetings.update", WRITE), ("metric-action.execute", WRITE),
    ("metric-definitions.create", WRITE), ("metric-definitions.delete", WRITE), ("metric-definitions.get", READ),
    ("metric-definitions.list", READ), ("metric-definitions.update", WRITE), ("metric-trackers.get", READ),
    ("metrics.devrev.ingest", BETA_WRITE), ("notifications.send", BETA_WRITE),
    ("observability.sessions.data.get", READ), ("observability.sessions.get", READ),
    ("observability.sessions.list", READ), ("org-schedule-fragments.create", WRITE),
    ("org-schedule-fragments.get", READ), ("org-schedule-fragments.transition", WRITE),
    ("org-schedules.create", WRITE), ("org-schedules.evaluate", READ), ("org-schedules.get", READ),
    ("org-schedules.list", READ), ("org-schedules.set-future", WRITE), ("org-schedules.transition", WRITE),
    ("org-schedules.update", WRITE), ("parts.create", WRITE), ("parts.delete", WRITE), ("parts.get", READ),
    ("parts.list", READ), ("parts.update", WRITE), ("ping", READ), ("preferences.get", BETA_READ),
    ("preferences.update", BETA_WRITE), ("question-answers.create", BETA_WRITE),
    ("question-answers.delete", BETA_WRITE), ("question-answers.get", BETA_READ),
    ("question-answers.list", BETA_READ), ("question-answers.update", BETA_WRITE), ("reactions.list", READ),
    ("reactions.update", WRITE), ("recommendations.chat.completions", BETA_WRITE),
    ("recommendations.get-reply", BETA_WRITE), ("record-templates.get", BETA_READ), ("rev-orgs.create", WRITE),
    ("rev-orgs.delete", WRITE), ("rev-orgs.get", READ), ("rev-orgs.list", READ), ("rev-orgs.update", WRITE),
    ("rev-users.associations.add", BETA_WRITE), ("rev-users.associations.list", BETA_READ),
    ("rev-users.associations.remove", BETA_WRITE), ("rev-users.create", WRITE), ("rev-users.delete", WRITE),
    ("rev-users.delete-personal-data", BETA_WRITE), ("rev-users.get", READ), ("rev-users.link", OLD_WRITE),
    ("rev-users.list", READ), ("rev-users.merge", WRITE), ("rev-users.personal-data", BETA_WRITE),
    ("rev-users.scan", READ), ("rev-users.unlink", OLD_WRITE), ("rev-users.update", WRITE),
    ("roles.apply", BETA_WRITE), ("roles.create", BETA_WRITE), ("schemas.aggregated.get", READ),
    ("schemas.custom.get", READ), ("schemas.custom.list", READ), ("schemas.custom.set", WRITE),
    ("schemas.stock.get", READ), ("schemas.stock.list", READ), ("schemas.subtypes.list", BETA_READ),
    ("schemas.subtypes.prepare-update", WRITE), ("search.core", BETA_READ), ("search.hybrid", BETA_READ),
    ("service-accounts.create", WRITE), ("service-accounts.get", READ), ("service-accounts.update", BETA_WRITE),
    ("sla-trackers.get", READ), ("sla-trackers.list", READ), ("sla-trackers.remove-metric", BETA_WRITE),
    ("slas.assign", WRITE), ("slas.create", WRITE), ("slas.get", READ), ("slas.list", READ),
    ("slas.transition", WRITE), ("slas.update", WRITE), ("snap-ins.resources", BETA_READ),
    ("snap-ins.update", BETA_WRITE), ("snap-kit-action.execute.deferred", WRITE), ("snap-widgets.create", WRITE),
    ("stage-diagrams.create", WRITE), ("stage-diagrams.get", READ), ("stage-diagrams.list", READ),
    ("stage-diagrams.update", WRITE), ("stages.custom.create", WRITE), ("stages.custom.get", READ),
    ("stages.custom.list", READ), ("stages.custom.update", WRITE), ("states.custom.create", WRITE),
    ("states.custom.get", READ), ("states.custom.list", READ), ("states.custom.update", WRITE),
    ("subscribers.get", BETA_READ), ("subscribers.list", BETA_READ), ("subscribers.update", BETA_WRITE),
    ("surveys.create", WRITE), ("surveys.delete", WRITE), ("surveys.get", READ), ("surveys.list", READ),
    ("surveys.responses.list", READ), ("surveys.responses.update", WRITE), ("surveys.send", WRITE),
    ("surveys.submit", WRITE), ("surveys.update", WRITE), ("sys-users.list", READ), ("sys-users.update", WRITE),
    ("tags.create", WRITE), ("tags.delete", WRITE), ("tags.get", READ), ("tags.list", READ), ("tags.update", WRITE),
    ("timeline-entries.create", WRITE), ("timeline-entries.delete", WRITE), ("timeline-entries.get", READ),
    ("timeline-entries.list", READ), ("timeline-entries.update", WRITE), ("track-events.publish", BETA_WRITE),
    ("uoms.count", BETA_READ), ("uoms.create", BETA_WRITE), ("uoms.delete", BETA_WRITE), ("uoms.get", BETA_READ),
    ("uoms.list", BETA_READ), ("uoms.update", BETA_WRITE), ("vistas.create", BETA_WRITE), ("vistas.delete", WRITE),
    ("vistas.get", READ), ("vistas.groups.delete", WRITE), ("vistas.groups.get", READ), ("vistas.groups.list", READ),
    ("vistas.list", READ), ("web-crawler-jobs.control", WRITE), ("web-crawler-jobs.create", WRITE),
    ("web-crawler-jobs.get", READ), ("web-crawler-jobs.list", READ), ("webhooks.create", WRITE),
    ("webhooks.delete", WRITE), ("webhooks.fetch", BETA_READ), ("webhooks.get", READ), ("webhooks.list", READ),
    ("webhooks.update", WRITE), ("widgets.get", BETA_READ), ("works.count", READ), ("works.create", WRITE),
    ("works.delete", WRITE), ("works.export", READ), ("works.get", READ), ("works.list", READ),
    ("works.update", WRITE),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_complete() {
        assert_eq!(TABLE.len(), 283);
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn a_pattern_that_matches_nothing_has_a_suggestion() {
        for (pattern, want) in [
            ("*", None),
            ("works.*", None),
            ("rev-users.associations.*", None),
            ("ping", None),
            ("v1/works.list", None),
            ("work.delete", Some("works.delete")),
            ("works.delte", Some("works.delete")),
            ("rev_users.link", Some("rev-users.link")),
            ("revusers.*", Some("rev-users.*")),
            ("v1/work.list", Some("works.list")),
            ("work", Some("")),
            ("tickets.create", Some("")),
            ("works.list.*", Some("")),
        ] {
            let want = want.map(|near| Some(near.to_owned()).filter(|near| !near.is_empty()));
            assert_eq!(unknown(pattern), want, "{pattern}");
        }
        assert!(TABLE.iter().all(|row| unknown(row.0).is_none()));
    }
}
