//! Operations that are still under way on the server, of this run when it ends and of one whose lock it took over:
//! they are ended there too.

use std::time::Duration;

use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Error;
use tokio::time::Instant;

/// The pause before the server is asked again whether an operation has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// What marks the connections of a run, so that the server can tell its operations from all others.
pub(crate) fn mark(run_id: &str) -> String {
    format!("{} {run_id}", env!("CARGO_PKG_NAME"))
}

/// Ends the run's reads and writes of `database` that the server is still busy with, writes of the gate's own
/// documents excepted. Best effort, until `until`: an operation ends when the server next checks for it.
///
/// A user may end operations of their own without any privilege. Commits and definitions of collections and
/// indexes are left alone: they take effect or do not.
pub(crate) async fn end(database: &Database, run_id: &str, own: &str, until: Instant) {
    if end_all(database, run_id, own, DOCUMENTS, until).await == Ended::NotInTime {
        tracing::warn!("an operation of this run may still be under way on the server");
    }
}

/// Like [`end`], for a run whose lock was taken over; also ends its changes to indexes, validators and options, which
/// could undo later ones. Index builds go on; whoever needs an index waits for it.
pub(crate) async fn end_former(database: &Database, run_id: &str, own: &str, until: Instant) {
    let all: Vec<&str> = DOCUMENTS.iter().chain(DEFINITIONS).copied().collect();
    if end_all(database, run_id, own, &all, until).await == Ended::NotInTime {
        tracing::warn!("an operation of that run is still under way on the server");
    }
}

/// Commands that read or write documents.
const DOCUMENTS: &[&str] =
    &["aggregate", "count", "delete", "find", "findAndModify", "getMore", "insert", "update"];

/// Commands that change what a name stands for, and have no UUID that would tell which one was meant.
const DEFINITIONS: &[&str] = &["collMod", "create", "deleteIndexes", "dropIndexes"];

/// How ending operations went.
#[derive(PartialEq, Eq)]
enum Ended {
    AsFarAsKnown,
    NotInTime,
}

async fn end_all(
    database: &Database,
    run_id: &str,
    own: &str,
    commands: &[&str],
    until: Instant,
) -> Ended {
    let ending = async {
        while end_once(database, run_id, own, commands).await? {
            tokio::time::sleep(PAUSE).await;
        }
        Ok::<_, Error>(())
    };
    match tokio::time::timeout_at(until, ending).await {
        Ok(Ok(())) => Ended::AsFarAsKnown,
        Ok(Err(error)) => {
            let error = crate::server::answer::describe(&error);
            tracing::debug!(error, "operations on the server were not ended");
            Ended::AsFarAsKnown
        }
        Err(_) => Ended::NotInTime,
    }
}

/// Whether anything was still under way.
async fn end_once(
    database: &Database,
    run_id: &str,
    own: &str,
    commands: &[&str],
) -> Result<bool, Error> {
    let admin = database.client().database("admin");
    let ask = doc! {
        "aggregate": 1,
        "pipeline": [
            { "$currentOp": { "allUsers": false, "idleSessions": false, "truncateOps": true } },
            { "$match": { "active": true } },
            { "$project": {
                "opid": 1, "op": 1, "ns": 1, "command": 1, "driver": "$clientMetadata.driver.name",
            } },
        ],
        "cursor": {},
    };
    let answer = admin.run_command(ask).await?;
    let found = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    let found = found.map(Vec::as_slice).unwrap_or_default();
    let (mark, own) = (mark(run_id), format!("{}.{own}", database.name()));
    let mut any = false;
    for operation in found.iter().filter_map(Bson::as_document) {
        let Some(opid) = operation.get("opid") else { continue };
        // an edit that is too large for one statement is an aggregation of the gate's own documents
        let of_others = |ns: &str| ns != own || command(operation) == Some("aggregate");
        if operation.get_str("driver").is_ok_and(|driver| driver.ends_with(&mark))
            && operation.get_str("ns").is_ok_and(|ns| is_in(ns, database.name()) && of_others(ns))
            && is_one_of(operation, commands)
        {
            any = true;
            admin.run_command(doc! { "killOp": 1, "op": opid }).await?;
        }
    }
    Ok(any)
}

fn is_in(namespace: &str, database: &str) -> bool {
    namespace.strip_prefix(database).is_some_and(|rest| rest.starts_with('.'))
}

/// Whether an operation is one of these commands; a read or a write of documents always is.
fn is_one_of(operation: &Document, commands: &[&str]) -> bool {
    if operation.get_str("op").is_ok_and(|op| op != "command" && op != "none") {
        return true;
    }
    command(operation).is_some_and(|name| commands.contains(&name))
}

/// The name of the command that an operation carries out.
fn command(operation: &Document) -> Option<&str> {
    let command = operation.get_document("command").ok()?;
    match command.get_str("$truncated") {
        // the text of a long command
        Ok(text) => text.trim_start_matches(['{', ' ']).split(':').next(),
        Err(_) => command.keys().next().map(String::as_str),
    }
}
