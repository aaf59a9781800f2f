//! The exit codes: the only file that knows their numbers.

use strum::{Display, EnumMessage, VariantArray};

/// How a run ended. The numbers are a public contract: orchestrators act on them.
///
/// `Display` writes the word used in reports and logs.
// What is written of each here is its line in `--help` and in the guide.
#[derive(Clone, Copy, Debug, Display, EnumMessage, VariantArray, PartialEq, Eq, Hash)]
#[strum(serialize_all = "snake_case")]
#[repr(u8)]
#[non_exhaustive]
pub enum Outcome {
    /// open: the application may start
    Open = 0,
    /// a bug
    Bug = 1,
    /// upgrades are pending
    Pending = 10,
    /// the database has no record, and no decision was given
    Unrecorded = 11,
    /// the database needs newer code, or older code first, or its history disagrees with this code's upgrades
    Incompatible = 12,
    /// an upgrade's condition does not hold; nothing of its version was written
    ConditionFailed = 13,
    /// an upgrade failed; the report says what is applied and what is not
    UpgradeFailed = 14,
    /// the record cannot be read
    RecordUnreadable = 15,
    /// a setting is wrong
    SettingWrong = 16,
    /// authentication failed or a privilege is missing
    NotAuthorised = 17,
    /// this server, as it is set up, cannot do what the gate or a pending upgrade needs
    ServerUnsuitable = 18,
    /// no server, or no primary, in time
    NoServer = 20,
    /// timed out waiting for another run's lock
    Locked = 21,
    /// interrupted by a signal; the work so far is kept
    Interrupted = 22,
    /// old pods did not stop in time, or came back
    NotQuiesced = 23,
}

impl Outcome {
    /// Every outcome, by ascending number.
    pub const ALL: &[Outcome] = Outcome::VARIANTS;

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

    /// Whether mode `wait` asks again after this: another run, or time, may resolve it.
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
        self.get_documentation().unwrap_or_default()
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
        for &outcome in Outcome::ALL {
            // besides the contract's: open, a bug, a signal
            let ends = matches!(outcome.code(), 12 | 15 | 16 | 17 | 18 | 0 | 1 | 22);
            assert_eq!(outcome.waiting_can_help(), !ends, "{outcome}");
        }
    }
}
