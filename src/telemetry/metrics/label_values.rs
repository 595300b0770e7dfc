//! Enums as label values, by their names.

use std::fmt::{Error, Write};

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

use crate::{
    error::{AuthFailure, Code},
    policy::{
        circuit::Scope,
        operation::{Class, OperationLabel},
        retry::Reason,
        rewrite::Unreadable,
        token_health::Finding,
    },
    telemetry::labels::{
        AttemptOutcome, ConnectionEnd, HandshakeFailure, Introspection, KeyFetch, ReloadResult,
        Source, SpanDrop, WaitReason,
    },
};

/// Enums as label values. Besides them, only names of the configuration are.
macro_rules! label_values {
    ($($name:ident),* $(,)?) => {$(
        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), Error> {
                encoder.write_str(self.label())
            }
        }
    )*};
}

label_values!(
    AttemptOutcome,
    AuthFailure,
    Class,
    Code,
    Finding,
    ConnectionEnd,
    HandshakeFailure,
    Introspection,
    KeyFetch,
    OperationLabel,
    Reason,
    ReloadResult,
    Scope,
    Source,
    SpanDrop,
    Unreadable,
    WaitReason,
);
