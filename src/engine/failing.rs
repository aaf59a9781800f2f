//! The closed gate of what fails in an upgrade, or around it.

use mongodb::bson::{Document, deserialize_from_document, doc};
use mongodb::error::{CommandError, ErrorKind};

use crate::authoring::step::Step;
use crate::authoring::table::VersionUpgrade;
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::server::stop::RunError;
use crate::server::{answer, errors, redact};

/// The closed gate of a failed upgrade.
pub(crate) fn failed(what: impl Into<String>, next: impl Into<String>) -> RunError {
    RunError::Failure(Failure::new(Outcome::UpgradeFailed, what, next))
}

/// Where an upgrade's work failed: its version and its step.
pub(crate) fn at(upgrade: &VersionUpgrade, step: &str) -> String {
    format!("upgrade {}: step \"{step}\"", upgrade.version)
}

/// The closed gate of a step that failed.
pub(crate) fn failed_step(
    upgrade: &VersionUpgrade,
    step: &str,
    what: &str,
    next: &str,
) -> RunError {
    failed(format!("{}: {what}", at(upgrade, step)), next)
}

/// Adds version, step and collections to a server error in a step's own work. Transient errors, missing privileges and
/// transactions that are too large are passed on unchanged.
pub(crate) fn in_step(error: RunError, upgrade: &VersionUpgrade, step: &Step) -> RunError {
    match error {
        RunError::Driver(error)
            if answer::code(&error).is_some_and(|code| code != answer::UNAUTHORISED)
                && !errors::is_transient(&error)
                && !answer::too_large(&error) =>
        {
            let mut collections = step.changes();
            collections.dedup();
            let doing =
                format!("{}: collection {}", at(upgrade, &step.name()), collections.join(", "));
            errors::failure(&error, &doing, Outcome::UpgradeFailed).into()
        }
        error => error,
    }
}

/// An error that ends the run outside the upgrades' own work, in the words of what was being done.
pub(crate) fn closed(error: RunError, doing: &str) -> Failure {
    closed_as(error, doing, Outcome::NoServer)
}

/// Like [`closed`], during the preflight: an error that is not known counts as a failure of the upgrades.
pub(crate) fn closed_in_preflight(error: RunError, doing: &str) -> Failure {
    closed_as(error, doing, Outcome::UpgradeFailed)
}

/// Like [`closed_in_preflight`], while `upgrades` are applied: a transient error has been retried for a long time.
pub(crate) fn closed_applying(
    error: RunError,
    doing: &str,
    upgrades: &[&VersionUpgrade],
) -> Failure {
    match &error {
        RunError::Driver(error) if answer::is_contention(error) => {
            let mut collections: Vec<&str> = upgrades
                .iter()
                .flat_map(|upgrade| upgrade.steps())
                .flat_map(|step| step.writes())
                .collect();
            collections.sort_unstable();
            collections.dedup();
            Failure::new(
                Outcome::UpgradeFailed,
                format!(
                    "{doing}: something else holds documents of {} ({})",
                    collections.join(", "),
                    answer::describe(error)
                ),
                "find the long transaction that holds them (db.currentOp() shows it) and end it, then \
                 run it again",
            )
        }
        _ => closed_in_preflight(error, doing),
    }
}

fn closed_as(error: RunError, doing: &str, unknown: Outcome) -> Failure {
    match error {
        RunError::Failure(failure) => failure,
        RunError::Driver(error) => errors::failure(&error, doing, unknown),
        RunError::Stopped(reason) => reason.failure(),
        RunError::RecordMoved => Failure::new(
            Outcome::Locked,
            "the record was changed by another run at the same time",
            "run it again: it starts from the record as it is then",
        ),
    }
}

/// The server's code for a write that it does not make in transactions: into a capped collection, and into
/// a missing one where the feature compatibility version is below 4.4.
const NOT_IN_A_TRANSACTION: i32 = 263;

/// The code of what the server does not allow at all.
const ILLEGAL: i32 = 20;

/// What the server says of a write in a transaction that it cannot hold, as an error of the driver, so that less is tried
/// at a time; `None` if it says something else.
pub(crate) fn outgrown(error: &Document) -> Option<RunError> {
    let code = error.get_i32("code").ok().filter(|code| answer::outgrows_server(*code))?;
    let text = |name: &str| error.get_str(name).unwrap_or_default();
    let command = doc! { "code": code, "codeName": text("codeName"), "errmsg": text("errmsg") };
    let command: CommandError = deserialize_from_document(command).ok()?;
    Some(RunError::Driver(ErrorKind::Command(command).into()))
}

/// An error of a transaction that writes one document, and what that adds: less cannot be tried.
pub(crate) fn of_one_document(
    error: RunError,
    upgrade: &VersionUpgrade,
    step: &str,
    place: impl FnOnce() -> String,
) -> RunError {
    let code = match &error {
        RunError::Driver(error) => {
            answer::code(error).filter(|code| answer::outgrows_server(*code))
        }
        _ => None,
    };
    let Some(code) = code else { return error };
    failed_step(
        upgrade,
        step,
        &format!(
            "{}: the server cannot hold what is written for it in one transaction (server error {code})",
            place()
        ),
        "give the server a larger cache (storage.wiredTiger.engineConfig.cacheSizeGB), or deploy code that adds fewer or \
         smaller documents for one document, then run it again",
    )
}

/// A write that the server rejected, for instance by a unique index or a validator.
pub(crate) fn write_failure(
    error: &Document,
    upgrade: &VersionUpgrade,
    step: &str,
    place: &str,
) -> RunError {
    let code = error.get_i32("code").unwrap_or_default();
    let message = error.get_str("errmsg").unwrap_or_default();
    // what is deleted from a capped collection has another code than what is changed there
    let capped = code == ILLEGAL && message.contains("capped collection");
    if code == NOT_IN_A_TRANSACTION || capped {
        return RunError::Failure(Failure::new(
            Outcome::ServerUnsuitable,
            format!(
                "{}: {place}: the server cannot write that in a transaction",
                at(upgrade, step)
            ),
            "if the collection is missing, raise the feature compatibility version to 4.4 or later \
             (setFeatureCompatibilityVersion) or create the collection; if it is capped, make it an \
             ordinary one; then run it again",
        ));
    }
    let detail = redact::detail(code, message, error.get_document("errInfo").ok());
    let reason = match (code, detail) {
        (_, Some(detail)) => detail,
        (code, None) => format!("server error {code}"),
    };
    failed_step(
        upgrade,
        step,
        &format!("{place}: {reason}"),
        "correct the document, or deploy code whose upgrade can deal with it, then run it again",
    )
}

#[cfg(test)]
mod tests {
    use mongodb::error::{CommandError, ErrorKind};

    use super::*;
    use crate::authoring::table::Upgrades;
    use crate::authoring::transform::Transform;
    use crate::authoring::upgrade::Upgrade;
    use crate::version::Version;

    fn error(code: i32) -> RunError {
        let error = serde_json::json!({ "code": code, "codeName": "Name", "errmsg": "a text" });
        let error: CommandError = serde_json::from_value(error).unwrap();
        RunError::Driver(ErrorKind::Command(error).into())
    }

    #[test]
    fn an_error_of_no_known_kind_is_the_upgrades_only_in_their_own_work() {
        let step = Transform::new("things", |_, _, _| Ok(()));
        let code = Version::parse_code("0.8.0").unwrap();
        let upgrades = Upgrades::new([Upgrade::new("0.8.0", "an upgrade").step(step)], &code);
        let upgrades = upgrades.unwrap();
        let upgrades: Vec<&VersionUpgrade> = upgrades.versions().iter().collect();
        let outcomes = |code| {
            let by = closed_applying(error(code), "upgrading", &upgrades);
            (closed(error(code), "asking").outcome, by.outcome)
        };
        assert_eq!(outcomes(8), (Outcome::NoServer, Outcome::UpgradeFailed));
        assert_eq!(outcomes(121), (Outcome::ServerUnsuitable, Outcome::UpgradeFailed));
        // there is no primary, whatever was being done
        assert_eq!(outcomes(10107), (Outcome::NoServer, Outcome::NoServer));
        // another transaction holds documents: a primary is there
        assert_eq!(outcomes(112), (Outcome::NoServer, Outcome::UpgradeFailed));
        let held = closed_applying(error(251), "upgrading", &upgrades);
        assert_eq!(held.outcome, Outcome::UpgradeFailed);
        assert!(held.message.contains("something else holds documents of things"), "{held}");
        assert_eq!(closed_in_preflight(error(251), "the preflight").outcome, Outcome::NoServer);
        assert_eq!(
            closed_in_preflight(error(121), "the preflight").outcome,
            Outcome::UpgradeFailed
        );
        // what the driver itself cannot do, or what no server should answer
        let odd = || RunError::Driver(mongodb::error::Error::from(ErrorKind::Bson(bson_error())));
        assert_eq!(closed(odd(), "asking").outcome, Outcome::Bug);
        assert_eq!(closed_applying(odd(), "upgrading", &upgrades).outcome, Outcome::UpgradeFailed);
    }

    fn bson_error() -> mongodb::bson::error::Error {
        mongodb::bson::RawDocumentBuf::from_bytes(vec![1, 2, 3]).unwrap_err()
    }
}
