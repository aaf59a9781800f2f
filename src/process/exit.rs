//! The exit codes: the only file that knows their numbers.

use std::fmt;

/// How a run ended. The numbers are a public contract: orchestrators act on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Outcome {
    /// The application may start.
    Open = 0,
    /// A bug in the gate or in the table of upgrades.
    Bug = 1,
    /// Upgrades are pending.
    Pending = 10,
    /// The database has no record and the operator gave no decision.
    Unrecorded = 11,
    /// The database needs newer code, or older code first, or its history disagrees with this code's
    /// upgrades.
    Incompatible = 12,
    /// An upgrade's condition does not hold; nothing of its version was written.
    ConditionFailed = 13,
    /// An upgrade failed.
    UpgradeFailed = 14,
    /// The record cannot be read.
    RecordUnreadable = 15,
    /// A setting is wrong.
    SettingWrong = 16,
    /// Authentication failed or a privilege is missing.
    NotAuthorised = 17,
    /// The server, as it is set up, cannot do what the gate or a pending upgrade needs.
    ServerUnsuitable = 18,
    /// No server, or no primary, in time.
    NoServer = 20,
    /// Timed out waiting for another run's lock.
    Locked = 21,
    /// Interrupted by a signal; the work so far is kept.
    Interrupted = 22,
    /// Old pods did not stop in time, or came back.
    NotQuiesced = 23,
}

impl Outcome {
    /// Every outcome, by ascending number.
    pub const ALL: [Outcome; 15] = [
        Outcome::Open,
        Outcome::Bug,
        Outcome::Pending,
        Outcome::Unrecorded,
        Outcome::Incompatible,
        Outcome::ConditionFailed,
        Outcome::UpgradeFailed,
        Outcome::RecordUnreadable,
        Outcome::SettingWrong,
        Outcome::NotAuthorised,
        Outcome::ServerUnsuitable,
        Outcome::NoServer,
        Outcome::Locked,
        Outcome::Interrupted,
        Outcome::NotQuiesced,
    ];

    /// The process's exit status.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Whether running again may end differently although nobody changed anything.
    pub fn retry_can_help(self) -> bool {
        matches!(self, Outcome::NoServer | Outcome::Locked | Outcome::Interrupted)
    }

    /// Whether running it again can help, in the words of the guide's tables.
    pub fn retry(self) -> &'static str {
        match self {
            Outcome::NotQuiesced => "after a look",
            outcome if outcome.retry_can_help() => "yes",
            _ => "no",
        }
    }

    /// Whether mode `wait` asks again after this: whatever another run, or time, may mend.
    pub fn waiting_can_help(self) -> bool {
        !matches!(
            self,
            Outcome::Open
                | Outcome::Bug
                | Outcome::Incompatible
                | Outcome::RecordUnreadable
                | Outcome::SettingWrong
                | Outcome::NotAuthorised
                | Outcome::ServerUnsuitable
                | Outcome::Interrupted
        )
    }

    /// One line for `--help` and the guide.
    pub fn meaning(self) -> &'static str {
        match self {
            Outcome::Open => "open: the application may start",
            Outcome::Bug => "a bug",
            Outcome::Pending => "upgrades are pending",
            Outcome::Unrecorded => "the database has no record, and no decision was given",
            Outcome::Incompatible => {
                "the database needs newer code, or older code first, or its history disagrees with \
                 this code's upgrades"
            }
            Outcome::ConditionFailed => {
                "an upgrade's condition does not hold; nothing of its version was written"
            }
            Outcome::UpgradeFailed => {
                "an upgrade failed; the report says what is applied and what is not"
            }
            Outcome::RecordUnreadable => "the record cannot be read",
            Outcome::SettingWrong => "a setting is wrong",
            Outcome::NotAuthorised => "authentication failed or a privilege is missing",
            Outcome::ServerUnsuitable => {
                "this server, as it is set up, cannot do what the gate or a pending upgrade needs"
            }
            Outcome::NoServer => "no server, or no primary, in time",
            Outcome::Locked => "timed out waiting for another run's lock",
            Outcome::Interrupted => "interrupted by a signal; the work so far is kept",
            Outcome::NotQuiesced => "old pods did not stop in time, or came back",
        }
    }
}

/// The word used in reports and logs.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Open => "open",
            Outcome::Bug => "bug",
            Outcome::Pending => "pending",
            Outcome::Unrecorded => "unrecorded",
            Outcome::Incompatible => "incompatible",
            Outcome::ConditionFailed => "condition_failed",
            Outcome::UpgradeFailed => "upgrade_failed",
            Outcome::RecordUnreadable => "record_unreadable",
            Outcome::SettingWrong => "setting_wrong",
            Outcome::NotAuthorised => "not_authorised",
            Outcome::ServerUnsuitable => "server_unsuitable",
            Outcome::NoServer => "no_server",
            Outcome::Locked => "locked",
            Outcome::Interrupted => "interrupted",
            Outcome::NotQuiesced => "not_quiesced",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_contracts() {
        let numbers: Vec<u8> = Outcome::ALL.iter().map(|o| o.code()).collect();
        assert_eq!(numbers, [0, 1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 23]);
    }

    #[test]
    fn what_waiting_cannot_mend_ends_a_wait_at_once_and_nothing_else_does() {
        for outcome in Outcome::ALL {
            // besides the contract's: open, a bug, a signal
            let ends = matches!(outcome.code(), 12 | 15 | 16 | 17 | 18 | 0 | 1 | 22);
            assert_eq!(outcome.waiting_can_help(), !ends, "{outcome}");
        }
    }
}
