//! Keys with a closed list of values: the text and the meaning of each stand once, for reading and for showing.

use super::plan::{
    BigintUnsignedMode, BinaryMode, Cascades, DecimalForm, DecimalMode, InvalidText, LogFormat, MysqlTls, OnPurge, SnapshotLock, TimeMode,
};
use crate::join::{Bad, Missing, Start};

pub(super) trait Choice: Copy + PartialEq + 'static {
    /// Every value, the default first.
    const VALUES: &'static [(&'static str, Self)];

    fn shown(self) -> &'static str {
        Self::VALUES.iter().find(|(_, value)| *value == self).map(|(text, _)| *text).expect("VALUES holds every value")
    }
}

impl Choice for MysqlTls {
    const VALUES: &'static [(&'static str, Self)] = &[
        ("verify-identity", Self::VerifyIdentity),
        ("verify-ca", Self::VerifyCa),
        ("required", Self::Required),
        ("disabled", Self::Disabled),
    ];
}

impl Choice for SnapshotLock {
    const VALUES: &'static [(&'static str, Self)] = &[("none", Self::None), ("brief", Self::Brief)];
}

impl Choice for OnPurge {
    const VALUES: &'static [(&'static str, Self)] = &[("exit", Self::Exit), ("resnapshot", Self::Resnapshot)];
}

impl Choice for Cascades {
    const VALUES: &'static [(&'static str, Self)] = &[("refuse", Self::Refuse), ("ignore", Self::Ignore)];
}

impl Choice for DecimalForm {
    const VALUES: &'static [(&'static str, Self)] = &[("string", Self::String), ("number", Self::Number)];
}

impl Choice for InvalidText {
    const VALUES: &'static [(&'static str, Self)] = &[("stop", Self::Stop), ("replace", Self::Replace)];
}

impl Choice for TimeMode {
    const VALUES: &'static [(&'static str, Self)] = &[
        ("adaptive_time_microseconds", Self::AdaptiveTimeMicroseconds),
        ("connect", Self::Connect),
        ("isostring", Self::Isostring),
        ("microseconds", Self::Microseconds),
        ("nanoseconds", Self::Nanoseconds),
    ];
}

/// The default hangs on `schemas`.
impl Choice for DecimalMode {
    const VALUES: &'static [(&'static str, Self)] = &[("precise", Self::Precise), ("string", Self::String), ("double", Self::Double)];
}

impl Choice for BigintUnsignedMode {
    const VALUES: &'static [(&'static str, Self)] = &[("long", Self::Long), ("precise", Self::Precise)];
}

impl Choice for BinaryMode {
    const VALUES: &'static [(&'static str, Self)] =
        &[("bytes", Self::Bytes), ("base64", Self::Base64), ("base64-url-safe", Self::Base64UrlSafe), ("hex", Self::Hex)];
}

impl Choice for LogFormat {
    const VALUES: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Choice for Missing {
    const VALUES: &'static [(&'static str, Self)] = &[("null", Self::Null), ("drop", Self::Drop), ("dead-letter", Self::DeadLetter)];
}

impl Choice for Bad {
    const VALUES: &'static [(&'static str, Self)] = &[("dead-letter", Self::DeadLetter), ("drop", Self::Drop), ("stop", Self::Stop)];
}

impl Choice for Start {
    const VALUES: &'static [(&'static str, Self)] = &[("earliest", Self::Earliest), ("latest", Self::Latest)];
}
