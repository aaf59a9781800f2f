//! The gate as the first process of a PID namespace, as in a container: a signal without a handler is
//! ignored there.

mod apps;
mod support;

use std::path::Path;
use std::process::Command;

use apps::lock;
use mongodb::bson::doc;
use support::{Gate, Running, Server, eventually};

/// Runs `program` as the first process of a namespace of its own.
fn first_process(program: &str) -> Gate {
    let namespace = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
    let unshare = ["/usr/bin/unshare", "/bin/unshare"];
    let unshare =
        unshare.iter().find(|path| Path::new(path).exists()).expect("unshare (util-linux)");
    namespace.iter().fold(Gate::new(*unshare), |gate, arg| gate.arg(arg)).arg(program)
}

/// The pid, in this namespace, of the process that `unshare` forked.
async fn inner(running: &Running) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", running.pid());
    eventually("the first process", || {
        let children = std::fs::read_to_string(&children).unwrap_or_default();
        let first = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
        async move { first }
    })
    .await
}

fn send(signal: &str, pid: u32) {
    let kill = format!("kill -{signal} {pid}");
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

#[tokio::test]
async fn a_signal_ends_the_gate_as_first_process_with_its_lock_released() {
    let database = Server::shared().await.database().await;
    for signal in ["TERM", "INT"] {
        let gate = apps::scenario(&database.uri, "0.8.0", "0.8.0=move_field");
        // another run holds the lock for long: this one waits
        let held = doc! { "_id": "upgrade_lock", "run_id": "other", "host": "other" };
        let locks = database.collection(apps::METADATA);
        locks.insert_one(held).await.unwrap();
        let lease = vec![doc! { "$set": { "expires": { "$add": ["$$NOW", 600_000] } } }];
        locks.update_one(doc! { "_id": "upgrade_lock" }, lease).await.unwrap();
        let mut running = apps::as_first_process(gate, first_process).spawn();
        running.logged("waiting for another run").await;
        send(signal, inner(&running).await);
        let run = running.wait().await;
        assert_eq!(run.code, Some(22), "{run}");
        assert_eq!(run.last()["exit_code"], 22, "{run}");
        assert_eq!(lock(&database).await.unwrap().get_str("run_id").unwrap(), "other");
        locks.delete_one(doc! { "_id": "upgrade_lock" }).await.unwrap();
    }
}

/// The twin: a first process without a handler for it does not notice the signal.
#[tokio::test]
async fn a_first_process_without_a_handler_does_not_notice_the_signal() {
    let script = "trap 'exit 7' USR1; echo ready >&2; while :; do /bin/sleep 0.01; done";
    let mut running = first_process("/bin/sh").arg("-c").arg(script).spawn();
    running.logged("ready").await;
    let pid = inner(&running).await;
    send("TERM", pid);
    send("USR1", pid);
    let run = running.wait().await;
    assert_eq!(run.code, Some(7), "{run}");
}
