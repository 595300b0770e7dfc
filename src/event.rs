//! The kinds of log lines that an operator may look for or alert on: the field `event`. A line's text may change and is written for people;
//! these names do not change. `deploy/README.md` explains each.

use crate::label::label_enum;

label_enum! {
    /// What a line of the log is about.
    pub enum Event {
        // The process.
        Started = "started",
        Listening = "listening",
        Draining = "draining",
        DrainTimeout = "drain_timeout",
        Drained = "drained",
        Panicked = "panicked",
        ThreadsHang = "threads_hang",
        ThreadsTurn = "threads_turn",
        ManagerUnreachable = "manager_unreachable",
        ManagerReachable = "manager_reachable",
        ListenerFailed = "listener_failed",
        AdminAcceptFailed = "admin_accept_failed",
        AdminAccepts = "admin_accepts",
        DescriptorsNotRaised = "descriptors_not_raised",
        CoreFilesPossible = "core_files_possible",
        // The configuration.
        ConfigWarning = "config_warning",
        ConfigReloaded = "config_reloaded",
        ConfigRefused = "config_refused",
        ConfigAcceptedAgain = "config_accepted_again",
        RestartNeeded = "restart_needed",
        LogLevelChanged = "log_level_changed",
        LogLevelRefused = "log_level_refused",
        // The quota.
        QuotaThrottled = "quota_throttled",
        QuotaPaused = "quota_paused",
        QuotaResumed = "quota_resumed",
        QuotaResumedByHand = "quota_resumed_by_hand",
        OperationPaused = "operation_paused",
        OperationResumed = "operation_resumed",
        // The fleet.
        SharedUp = "shared_up",
        SharedDown = "shared_down",
        SharedDenied = "shared_denied",
        SharedLostState = "shared_lost_state",
        SharedUnreadable = "shared_unreadable",
        SharedNoRoom = "shared_no_room",
        // DevRev.
        UpstreamUnreachable = "upstream_unreachable",
        UpstreamReachable = "upstream_reachable",
        CircuitOpened = "circuit_opened",
        CircuitClosed = "circuit_closed",
        // DevRev tokens.
        TokenRefused = "token_refused",
        TokenAccepted = "token_accepted",
        TokenReplaced = "token_replaced",
        TokenDoubted = "token_doubted",
        TokenExpired = "token_expired",
        TokenExpiresSoon = "token_expires_soon",
        TokenExpiresLater = "token_expires_later",
        // Keys of an issuer.
        KeysFetched = "keys_fetched",
        KeysFailing = "keys_failing",
        KeysFetchedAgain = "keys_fetched_again",
        // Spans.
        SpansExported = "spans_exported",
        SpansFailing = "spans_failing",
        SpansExportedAgain = "spans_exported_again",
        SpansLeft = "spans_left",
        // Clients.
        RequestRefused = "request_refused",
        CredentialRefused = "credential_refused",
        HandshakeFailed = "handshake_failed",
        AcceptFailed = "accept_failed",
        ConnectionEnded = "connection_ended",
        ProxyFieldDiffers = "proxy_field_differs",
        // The log itself.
        MoreLines = "more_lines",
        LogLinesDropped = "log_lines_dropped",
    }
}
