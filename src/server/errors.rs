//! The server's error codes: what each means to a run, and what to do about it.

use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::server::answer::{code, describe, message};
use crate::server::diagnosis::unreachable;

/// Where an error has its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// In every command.
    Anywhere,
    /// In the gate's own commands: about record, lock, privileges. In an upgrade's own work it is an error
    /// of that upgrade.
    GatesOwn,
}

/// What an error of the server means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meaning {
    /// How the run ends.
    pub(crate) outcome: Outcome,
    /// What is the matter.
    pub(crate) cause: &'static str,
    /// What to do next.
    pub(crate) remedy: &'static str,
    place: Where,
}

/// Error codes with one meaning, by number and name.
type Row = (&'static [(i32, &'static str)], Meaning);

const fn row(
    codes: &'static [(i32, &'static str)],
    outcome: Outcome,
    place: Where,
    cause: &'static str,
    remedy: &'static str,
) -> Row {
    (codes, Meaning { outcome, cause, remedy, place })
}

use Outcome::{NoServer, NotAuthorised, ServerUnsuitable, SettingWrong};
use Where::{Anywhere, GatesOwn};

/// What to do about a collection of the record that cannot hold it.
const NO_VIEW: &str =
    "drop or rename what is there under that name, so that an ordinary collection takes its place";

/// Without a journal the server answers a write concern that asks for it with `BadValue`.
const NO_JOURNAL: Meaning = Meaning {
    outcome: ServerUnsuitable,
    cause: "the server keeps no journal, so that it may lose what it confirmed",
    remedy: "start the server without --nojournal (storage.journal.enabled: true), then run it again",
    place: Anywhere,
};

/// Atlas has one code for refusals of all kinds.
const OVER_QUOTA: Meaning = Meaning {
    outcome: ServerUnsuitable,
    cause: "the cluster's storage quota is used up",
    remedy: "enlarge the cluster or free space in it, then run it again",
    place: Anywhere,
};

/// Every error that has a meaning of its own. The order is that of the exit codes.
const TABLE: &[Row] = &[
    row(
        &[(73, "InvalidNamespace")],
        SettingWrong,
        Anywhere,
        "the server does not accept the name of the database or of a collection",
        "correct the database's name in GATE_DATABASE or the connection string",
    ),
    row(
        &[(13297, "DatabaseDifferCase")],
        SettingWrong,
        Anywhere,
        "the server has a database whose name differs only in upper and lower case",
        "write the database's name in GATE_DATABASE or the connection string as the server has it",
    ),
    row(
        &[
            (11, "UserNotFound"),
            (18, "AuthenticationFailed"),
            (334, "MechanismUnavailable"),
            (8000, "AtlasError"),
        ],
        NotAuthorised,
        Anywhere,
        "the server does not accept the user",
        "check user, password, authSource and authMechanism in the connection string",
    ),
    row(
        &[(13, "Unauthorized"), (31, "RoleNotFound")],
        NotAuthorised,
        Anywhere,
        "the server refused it: authentication or a privilege is missing",
        "put a user into the connection string that has the least role of docs/mongodb.md",
    ),
    row(
        &[(371, "UserWritesBlocked")],
        NotAuthorised,
        Anywhere,
        "writes are blocked for this user (setUserWriteBlockMode)",
        "end the write block (db.adminCommand({ setUserWriteBlockMode: 1, global: false })), or use a \
         user that may bypass it, then run it again",
    ),
    row(
        &[(148, "ReadConcernMajorityNotEnabled")],
        ServerUnsuitable,
        Anywhere,
        "majority reads are switched off on this server",
        "start the server without enableMajorityReadConcern=false, then run it again",
    ),
    row(
        &[
            (322, "APIVersionError"),
            (323, "APIStrictError"),
            (324, "APIDeprecationError"),
            (498870, "Location498870"),
        ],
        ServerUnsuitable,
        Anywhere,
        "the server requires that clients declare an API version, which this program does not",
        "set the server's parameter requireApiVersion to false, then run it again",
    ),
    row(
        &[(14031, "OutOfDiskSpace")],
        ServerUnsuitable,
        Anywhere,
        "the server has no disk space left",
        "free space on the server's disk or enlarge it, then run it again",
    ),
    row(
        &[(166, "CommandNotSupportedOnView"), (167, "OptionNotSupportedOnView")],
        ServerUnsuitable,
        GatesOwn,
        "the collection of the record is a view or a time-series collection",
        NO_VIEW,
    ),
    row(
        &[(10003, "CannotGrowDocumentInCappedNamespace"), (20, "IllegalOperation")],
        ServerUnsuitable,
        GatesOwn,
        "the collection of the record is capped, or the server is read-only",
        "replace the capped collection by an ordinary one with the same documents, or start the server \
         for writing",
    ),
    row(
        &[(121, "DocumentValidationFailure")],
        ServerUnsuitable,
        GatesOwn,
        "a validator of the record's collection does not let the gate's documents pass",
        "remove the validator of that collection (collMod with validator: {}), then run it again",
    ),
    row(
        &[(11000, "DuplicateKey")],
        ServerUnsuitable,
        GatesOwn,
        "a unique index of the record's collection is in the way of the gate's documents",
        "drop that index, then run it again",
    ),
    row(
        &[
            (9, "FailedToParse"),
            (14, "TypeMismatch"),
            (59, "CommandNotFound"),
            (72, "InvalidOptions"),
            (115, "CommandNotSupported"),
            (168, "InvalidPipelineOperator"),
            (263, "OperationNotSupportedInTransaction"),
            (40324, "Location40324"),
            (40415, "Location40415"),
        ],
        ServerUnsuitable,
        GatesOwn,
        "the server does not know a command or an option of the gate",
        "use MongoDB 4.4 or later, and not a server that only resembles it",
    ),
    row(
        &[
            (6, "HostUnreachable"),
            (7, "HostNotFound"),
            (89, "NetworkTimeout"),
            (202, "NetworkInterfaceExceededTimeLimit"),
            (384, "ConnectionError"),
            (9001, "SocketException"),
        ],
        NoServer,
        Anywhere,
        "servers of the deployment do not reach each other",
        "check the network between the servers, then run it again",
    ),
    row(
        &[
            (74, "NodeNotFound"),
            (76, "NoReplicationEnabled"),
            (93, "InvalidReplicaSetConfig"),
            (94, "NotYetInitialized"),
            (211, "KeyNotFound"),
        ],
        NoServer,
        Anywhere,
        "the replica set is not ready, or was never initiated",
        "check rs.status(); if the set is new, run rs.initiate() once; then run it again",
    ),
    row(
        &[
            (91, "ShutdownInProgress"),
            (189, "PrimarySteppedDown"),
            (10058, "LegacyNotPrimary"),
            (10107, "NotWritablePrimary"),
            (11600, "InterruptedAtShutdown"),
            (11602, "InterruptedDueToReplStateChange"),
            (13435, "NotPrimaryNoSecondaryOk"),
            (13436, "NotPrimaryOrSecondary"),
            (133, "FailedToSatisfyReadPreference"),
        ],
        NoServer,
        Anywhere,
        "the server is not, or no longer, the primary",
        "run it again once the replica set has a primary",
    ),
    row(
        &[
            (64, "WriteConcernFailed"),
            (79, "UnknownReplWriteConcern"),
            (100, "UnsatisfiableWriteConcern"),
            (134, "ReadConcernMajorityNotAvailableYet"),
        ],
        NoServer,
        Anywhere,
        "a majority of the replica set does not confirm what is written",
        "check that a majority of the set's members that hold data runs, then run it again",
    ),
    row(
        &[
            (13388, "StaleConfig"),
            (63, "StaleShardVersion"),
            (150, "StaleEpoch"),
            (249, "StaleDbVersion"),
        ],
        NoServer,
        Anywhere,
        "the cluster is moving data between shards",
        "run it again once the balancer is done",
    ),
    row(
        &[
            (24, "LockTimeout"),
            (43, "CursorNotFound"),
            (46, "LockBusy"),
            (50, "MaxTimeMSExpired"),
            (112, "WriteConflict"),
            (117, "ConflictingOperationInProgress"),
            (136, "CappedPositionLost"),
            (175, "QueryPlanKilled"),
            (237, "CursorKilled"),
            (239, "SnapshotTooOld"),
            (246, "SnapshotUnavailable"),
            (251, "NoSuchTransaction"),
            (261, "TooManyLogicalSessions"),
            (262, "ExceededTimeLimit"),
            (264, "TooManyFilesOpen"),
            (267, "PreparedTransactionInProgress"),
            (279, "ClientDisconnect"),
            (365, "TemporarilyUnavailable"),
            (11601, "Interrupted"),
            (12586, "BackgroundOperationInProgressForDatabase"),
            (12587, "BackgroundOperationInProgressForNamespace"),
        ],
        NoServer,
        Anywhere,
        "the server is busy, or gave the operation up",
        "run it again; db.currentOp() shows what keeps the server busy",
    ),
];

/// What an error of the server means, if it has a meaning of its own.
///
/// An error of an upgrade's own work may mean something else there.
pub(crate) fn meaning(error: &Error, unknown: Outcome) -> Option<Meaning> {
    let code = code(error)?;
    let message = message(error).unwrap_or_default();
    let meaning = match code {
        2 if message.contains("journal") => NO_JOURNAL,
        8000 if message.contains("quota") => OVER_QUOTA,
        // before a transaction writes to it
        263 if message.contains("capped collection") => *of(10003)?,
        code => *of(code)?,
    };
    let elsewhere = meaning.place == GatesOwn && unknown == Outcome::UpgradeFailed;
    (!elsewhere).then_some(meaning)
}

/// The closed gate of a database that the server knows under a name of other upper and lower case.
pub(crate) fn differs_in_case(name: &str, stored: &str) -> Failure {
    Failure::new(
        SettingWrong,
        format!("the database is named {name}, but the server has {stored}"),
        format!("write {stored} in GATE_DATABASE or the connection string"),
    )
}

/// The closed gate of a collection that cannot hold the record.
pub(crate) fn no_collection(name: &str, kind: &str) -> Failure {
    let kind = if kind == "view" { "a view" } else { "a time-series collection" };
    let message = format!("{name}, where the record belongs, is {kind}");
    Failure::new(ServerUnsuitable, message, NO_VIEW)
}

fn of(code: i32) -> Option<&'static Meaning> {
    let row = TABLE.iter().find(|(codes, _)| codes.iter().any(|(known, _)| *known == code))?;
    Some(&row.1)
}

/// What servers say that refuse even the driver's greeting, so that none can be selected.
pub(crate) fn greeting(topology: &str) -> Option<&'static Meaning> {
    if topology.contains("498870") { of(498870) } else { None }
}

/// Whether a code stands for a state that may pass although nobody changes anything.
pub(crate) fn passes(code: i32) -> bool {
    of(code).is_some_and(|meaning| meaning.outcome == NoServer)
}

/// The table of errors for the guide.
#[cfg(test)]
pub(crate) fn server_errors_table() -> String {
    let head =
        "| error of the server | exit code | cause | what to do |\n| --- | --- | --- | --- |\n";
    let special: [(&[(i32, &str)], Meaning); 2] = [
        (&[(2, "BadValue, of the journal")], NO_JOURNAL),
        (&[(8000, "AtlasError, of a quota")], OVER_QUOTA),
    ];
    let rows = TABLE.iter().map(|(codes, meaning)| (*codes, meaning));
    let line = |(codes, meaning): (&[(i32, &str)], &Meaning)| {
        let codes: Vec<String> =
            codes.iter().map(|(code, name)| format!("{code} {name}")).collect();
        let note = match meaning.place {
            Anywhere => "",
            GatesOwn => "; 14 in an upgrade's own work",
        };
        let Meaning { outcome, cause, remedy, .. } = meaning;
        format!("| {} | {}{note} | {cause} | {remedy} |\n", codes.join(", "), outcome.code())
    };
    let special = special.iter().map(|(codes, meaning)| line((*codes, meaning)));
    let lines: String = special.chain(rows.map(line)).collect();
    head.to_owned() + &lines
}

/// The failure for a driver error, with what was being done. `unknown` is the outcome of an error that is not known:
/// [`Outcome::UpgradeFailed`] in an upgrade's own work, else [`Outcome::NoServer`].
pub(crate) fn failure(error: &Error, doing: &str, unknown: Outcome) -> Failure {
    let text = describe(error);
    let no_server = |next: &str| Failure::new(Outcome::NoServer, format!("{doing}: {text}"), next);
    match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => Failure::new(
            Outcome::NotAuthorised,
            format!("{doing}: {text}"),
            "check user, password and authSource in the connection string",
        ),
        ErrorKind::ServerSelection { message, .. } => match greeting(message) {
            Some(meaning) => {
                Failure::new(meaning.outcome, format!("{doing}: {}", meaning.cause), meaning.remedy)
            }
            None => unreachable(doing, message),
        },
        ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. } => Failure::new(
            Outcome::SettingWrong,
            format!("{doing}: {text}"),
            "correct the options in GATE_MONGODB_URI",
        ),
        ErrorKind::DnsResolve { .. }
        | ErrorKind::Io(_)
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::InvalidResponse { .. } => {
            no_server("check that the server runs and is a MongoDB, then run it again")
        }
        ErrorKind::IncompatibleServer { .. } | ErrorKind::SessionsNotSupported => Failure::new(
            Outcome::ServerUnsuitable,
            format!("{doing}: {text}"),
            "use MongoDB 4.4 or later",
        ),
        ErrorKind::Internal { .. } => Failure::bug(format!("{doing}: {text}")),
        // of an upgrade it is one of its documents
        ErrorKind::Bson(_) if unknown != Outcome::UpgradeFailed => {
            Failure::bug(format!("{doing}: {text}"))
        }
        _ => match meaning(error, unknown) {
            Some(meaning) => Failure::new(
                meaning.outcome,
                format!("{doing}: {} ({text})", meaning.cause),
                meaning.remedy,
            ),
            _ if is_transient(error) => no_server("run it again once the server has a primary"),
            _ => Failure::new(
                unknown,
                format!("{doing}: {text}"),
                "correct what the server objects to, then run it again",
            ),
        },
    }
}

/// Whether the operation may succeed when it is simply tried again: network, failover, write concern,
/// a server that is starting, stopping or busy.
pub(crate) fn is_transient(error: &Error) -> bool {
    let labelled = ["RetryableWriteError", "RetryableError", "TransientTransactionError"]
        .iter()
        .any(|label| error.contains_label(label));
    let network =
        matches!(error.kind.as_ref(), ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. });
    labelled || network || code(error).is_some_and(passes)
}

/// Whether an error of a write says that it took no effect: the server refused it, and did not merely
/// fail to confirm it.
pub(crate) fn refuses(error: &Error) -> bool {
    let refused = matches!(
        error.kind.as_ref(),
        ErrorKind::Command(_) | ErrorKind::Write(WriteFailure::WriteError(_))
    );
    refused && !is_transient(error)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mongodb::error::CommandError;

    use super::*;

    fn error(code: i32, message: &str) -> Error {
        let error = serde_json::json!({ "code": code, "codeName": "Name", "errmsg": message });
        let error: CommandError = serde_json::from_value(error).unwrap();
        ErrorKind::Command(error).into()
    }

    #[test]
    fn every_error_has_one_meaning_with_a_cause_and_a_remedy() {
        let mut seen = BTreeSet::new();
        for (codes, meaning) in TABLE {
            assert!(!meaning.cause.is_empty() && !meaning.remedy.is_empty());
            for (code, name) in *codes {
                assert!(seen.insert(*code), "{code} {name} stands there twice");
                for unknown in [Outcome::NoServer, Outcome::UpgradeFailed] {
                    let failure = failure(&error(*code, ""), "asking", unknown);
                    let own = meaning.place == GatesOwn && unknown == Outcome::UpgradeFailed;
                    let expected = if own { unknown } else { meaning.outcome };
                    assert_eq!(failure.outcome, expected, "{code} {name}");
                    assert!(failure.message.contains(&code.to_string()), "{failure}");
                    if !own {
                        assert_eq!(failure.next, meaning.remedy);
                    }
                }
            }
        }
    }

    #[test]
    fn what_passes_is_tried_again_and_what_lasts_is_not() {
        for (codes, meaning) in TABLE {
            for (code, name) in *codes {
                let passes = is_transient(&error(*code, ""));
                assert_eq!(passes, meaning.outcome.retry_can_help(), "{code} {name}");
            }
        }
        assert!(!is_transient(&error(8, "")), "an error of no known kind");
    }

    #[test]
    fn two_codes_are_told_apart_by_their_message() {
        let outcome = |code, message| {
            meaning(&error(code, message), Outcome::NoServer).map(|meaning| meaning.outcome)
        };
        let journal = "cannot use 'j' option when a host does not have journaling enabled";
        assert_eq!(outcome(2, journal), Some(ServerUnsuitable));
        assert_eq!(outcome(2, "bad"), None);
        let quota = "you are over your space quota, using 513 MB of 512 MB";
        assert_eq!(outcome(8000, quota), Some(ServerUnsuitable));
        assert_eq!(outcome(8000, "bad auth : authentication failed"), Some(NotAuthorised));
    }
}
