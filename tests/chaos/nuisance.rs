//! What is done to the servers during a round: fail points, and members that step down, die or freeze.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use mongodb::bson::{Document, doc};

use super::faults::{Members, arm, disarm};
use super::plan::{Kind, Plan};
use crate::support::Server;

/// What was done, by its name.
pub type Counts = BTreeMap<&'static str, u64>;

/// Codes of a server that is not, or no longer, the primary, or does not answer in time.
const CODES: [i32; 11] = [6, 7, 89, 91, 112, 189, 262, 9001, 10107, 11600, 11602];

const WRITES: [&str; 8] = [
    "update",
    "insert",
    "findAndModify",
    "delete",
    "commitTransaction",
    "createIndexes",
    "drop",
    "renameCollection",
];
const OTHERS: [&str; 6] =
    ["find", "aggregate", "getMore", "abortTransaction", "listCollections", "listIndexes"];

/// One fault: its kind, and what `failCommand` does.
fn fault(rng: &mut Rng, lease: Duration) -> (&'static str, Document) {
    let mut some = |commands: &[&'static str]| {
        let count = rng.usize(2..=commands.len());
        rng.choose_multiple(commands.iter().copied(), count)
    };
    let (writes, any) = (some(&WRITES), some(&[WRITES.as_slice(), &OTHERS].concat()));
    let code = CODES[rng.usize(..CODES.len())];
    let unconfirmed = [64, 91, 189, 11602][rng.usize(..4)];
    match rng.u8(..9) {
        0 => ("error", doc! { "failCommands": any, "errorCode": code }),
        1 => (
            "error without labels",
            doc! { "failCommands": any, "errorCode": code, "errorLabels": [] },
        ),
        2 => (
            "TransientTransactionError",
            doc! {
                "failCommands": ["find", "update", "insert", "commitTransaction"],
                "errorCode": 251,
                "errorLabels": ["TransientTransactionError"],
            },
        ),
        3 => (
            "UnknownTransactionCommitResult",
            doc! {
                "failCommands": ["commitTransaction"],
                "errorCode": 50,
                "errorLabels": ["UnknownTransactionCommitResult"],
            },
        ),
        4 => (
            "RetryableWriteError",
            doc! {
                "failCommands": writes,
                "errorCode": code,
                "errorLabels": ["RetryableWriteError"],
            },
        ),
        5 => ("closed connection", doc! { "failCommands": any, "closeConnection": true }),
        // the command is carried out, and not confirmed
        6 | 7 => (
            "write concern error",
            doc! {
                "failCommands": writes,
                "writeConcernError": { "code": unconfirmed, "errmsg": "chaos" },
            },
        ),
        _ => (
            "delay",
            doc! {
                "failCommands": any,
                "blockConnection": true,
                "blockTimeMS": rng.i32(20..1500).min(2 * lease.as_millis() as i32),
            },
        ),
    }
}

/// Sets one fault after the other on the primary; returns how many commands each kind met.
pub async fn inject(plan: &Plan, server: &Server, over: &Cell<bool>) -> Counts {
    let (mut rng, mut met) = (plan.rng(4), Counts::new());
    let members = Members::of(server).await;
    while !over.get() {
        let (kind, what) = fault(&mut rng, plan.lease);
        let (times, pause) = (rng.i32(1..6), rng.u64(10..100));
        if let Some(primary) = members.primary().await
            && let Some(before) = disarm(primary).await
            && arm(primary, doc! { "times": times }, what).await.is_some()
        {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let after = disarm(primary).await.unwrap_or(before);
            *met.entry(kind).or_default() += (after - before).max(0) as u64;
        }
        tokio::time::sleep(Duration::from_millis(pause / 4)).await;
    }
    met
}

/// Makes members step down, kills and freezes them, one after the other; leaves all of them well.
pub async fn fail_over(plan: &Plan, server: &Server, over: &Cell<bool>) -> Counts {
    let (mut rng, mut done) = (plan.rng(5), Counts::new());
    let members = Members::of(server).await;
    loop {
        // a killed run may have left one open, which nobody knows of when its successor is killed too
        members.end_transactions_after(5).await;
        let calm = rng.u64(200..3000);
        for _ in 0..calm / 50 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if over.get() {
                return done;
            }
        }
        let what = match (plan.kind, rng.u8(..3)) {
            (Kind::ThreeMembers, 0) => {
                server.step_down().await;
                "step-downs"
            }
            (kind, 0 | 1) => {
                let primary = server.primary().await;
                server.kill(primary);
                if kind == Kind::ThreeMembers {
                    server.primary().await;
                }
                server.restart(primary).await;
                "killed servers"
            }
            _ => {
                let primary = server.primary().await;
                server.freeze(primary);
                tokio::time::sleep(Duration::from_millis(rng.u64(300..3000))).await;
                server.thaw(primary);
                "frozen servers"
            }
        };
        *done.entry(what).or_default() += 1;
        if plan.kind != Kind::Standalone {
            server.settled().await;
        }
    }
}
