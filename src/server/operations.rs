//! Operations of this run that are still under way on the server when the run ends: they are ended there too.

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

/// Ends the run's reads and writes of `database` that the server is still busy with, those of the gate's own
/// collection excepted. Best effort, until `until`: an operation ends where the server looks whether it should.
///
/// A user may end operations of their own without any privilege. Commits and definitions of collections and
/// indexes are left alone: they take effect or do not.
pub(crate) async fn end(database: &Database, run_id: &str, own: &str, until: Instant) {
    let ending = async {
        while end_once(database, run_id, own).await? {
            tokio::time::sleep(PAUSE).await;
        }
        Ok::<_, Error>(())
    };
    match tokio::time::timeout_at(until, ending).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let error = crate::server::answer::describe(&error);
            tracing::debug!(error, "operations on the server were not ended");
        }
        Err(_) => tracing::warn!("an operation of this run may still be under way on the server"),
    }
}

/// Whether anything was still under way.
async fn end_once(database: &Database, run_id: &str, own: &str) -> Result<bool, Error> {
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
        if operation.get_str("driver").is_ok_and(|driver| driver.ends_with(&mark))
            && operation.get_str("ns").is_ok_and(|ns| is_in(ns, database.name()) && ns != own)
            && reads_or_writes(operation)
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

/// Whether an operation reads or writes documents.
fn reads_or_writes(operation: &Document) -> bool {
    if operation.get_str("op").is_ok_and(|op| op != "command" && op != "none") {
        return true;
    }
    let Ok(command) = operation.get_document("command") else { return false };
    let name = match (command.get_str("$truncated"), command.keys().next()) {
        // the text of a long command
        (Ok(text), _) => text.trim_start_matches(['{', ' ']).split(':').next().unwrap_or_default(),
        (Err(_), Some(name)) => name,
        (Err(_), None) => return false,
    };
    ["aggregate", "count", "delete", "find", "findAndModify", "getMore", "insert", "update"]
        .contains(&name)
}
