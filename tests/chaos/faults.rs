//! Fail points: commands of the gate that the server refuses, delays or does not answer.

use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, Database};

use crate::support::Server;

/// A server's members, each reached directly.
pub struct Members(Vec<Database>);

/// How long a member may take to answer; one that is frozen or killed does not.
const PATIENCE: Duration = Duration::from_secs(4);

impl Members {
    pub async fn of(server: &Server) -> Members {
        let uri = server.uri("");
        let (hosts, _) = uri.trim_start_matches("mongodb://").split_once('/').unwrap();
        let mut members = Vec::new();
        for host in hosts.split(',') {
            let options = "directConnection=true&serverSelectionTimeoutMS=500";
            let client = Client::with_uri_str(format!("mongodb://{host}/?{options}")).await;
            members.push(client.unwrap().database("admin"));
        }
        Members(members)
    }

    /// The member that can be written to, if one says so.
    pub async fn primary(&self) -> Option<&Database> {
        for member in &self.0 {
            let hello = answer(member, doc! { "hello": 1 }).await;
            if hello.is_some_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false)) {
                return Some(member);
            }
        }
        None
    }

    /// Makes the members that answer end, after so many seconds, transactions that are left open.
    pub async fn end_transactions_after(&self, seconds: i32) {
        for member in &self.0 {
            let limit = doc! { "setParameter": 1, "transactionLifetimeLimitSeconds": seconds };
            answer(member, limit).await;
        }
    }

    /// Lets the secondaries take over what the primary writes, or not.
    #[allow(dead_code)] // the campaign does not, but other tests share this file
    pub async fn replicate(&self, may: bool) {
        let mode = if may { "off" } else { "alwaysOn" };
        for member in &self.0 {
            let stop = doc! { "configureFailPoint": "stopReplProducer", "mode": mode };
            answer(member, stop).await.unwrap();
        }
    }

    /// Takes every fail point away.
    pub async fn heal(&self) {
        for member in &self.0 {
            crate::support::eventually("a member without fail points", || disarm(member)).await;
        }
    }
}

/// Makes `failCommand` do `what` to commands of gates, and of nobody else.
pub async fn arm(member: &Database, mode: impl Into<Bson>, what: Document) -> Option<Document> {
    let mut data = doc! { "appName": "upgrade-gate" };
    data.extend(what);
    answer(member, doc! { "configureFailPoint": "failCommand", "mode": mode.into(), "data": data })
        .await
}

/// Takes the fail point away, as soon as no command is held there; returns how many commands it has met since the member started.
pub async fn disarm(member: &Database) -> Option<i64> {
    let off = doc! { "configureFailPoint": "failCommand", "mode": "off" };
    let answer = answer(member, off).await?;
    answer.get_i64("count").or_else(|_| answer.get_i32("count").map(i64::from)).ok()
}

async fn answer(member: &Database, command: Document) -> Option<Document> {
    tokio::time::timeout(PATIENCE, member.run_command(command)).await.ok()?.ok()
}
