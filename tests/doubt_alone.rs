//! Writes of a standalone's record that are not answered: the run learns what became of them where the server
//! can be asked, and says that they are in doubt where it cannot.

mod apps;
mod support;

use apps::{METADATA, history, record, record_old, scenario};
use mongodb::bson::{Document, doc};
use support::proxy::{Loss, Proxy};
use support::{Fresh, Gate, Run, Server, dump};

const DOCUMENTS: i32 = 30;

async fn old(server: &Server) -> Fresh {
    let database = server.database().await;
    record_old(&database).await;
    apps::fill(&database, "things", (0..DOCUMENTS).map(|id| doc! { "_id": id, "a": id })).await;
    database
}

fn gate(uri: &str) -> Gate {
    let gate = scenario(uri, "0.8.0", "0.8.0=move_field").unset("GATE_FROM_VERSION");
    gate.set("GATE_BATCH_DOCUMENTS", "10")
}

/// The way to the database that loses an answer.
fn through(proxy: &Proxy, database: &Fresh) -> String {
    format!("mongodb://127.0.0.1:{}/{}", proxy.port, database.name())
}

fn port(server: &Server) -> u16 {
    let uri = server.uri("");
    let (_, port) = uri.trim_end_matches('/').rsplit_once(':').unwrap();
    port.parse().unwrap()
}

/// The run says of the database what is stored, and nothing is in doubt.
async fn is_true(database: &Fresh, run: &Run) {
    let stored = record(database).await;
    assert_eq!(run.report.get("in_doubt"), None, "{run}");
    assert!(!run.report["message"].as_str().unwrap().contains("in doubt"), "{run}");
    assert_eq!(run.report["to"].as_str(), stored.get_str("version").ok(), "{run}");
    let journaled = stored.contains_key("journal");
    assert_eq!(run.report.get("unfinished").is_some_and(|u| !u.is_null()), journaled, "{run}");
    let applied = history(&stored).contains(&"upgrade 0.8.0".to_owned());
    let said = run.report["upgrades"].as_array().unwrap();
    let said = said.iter().any(|upgrade| upgrade["version"] == "0.8.0");
    assert_eq!(said, applied, "{run}");
}

/// Another run ends the upgrade, and what it leaves is what one run leaves.
async fn goes_on(database: &Fresh) {
    let run = gate(&database.uri).run().await;
    assert_eq!(run.code, Some(0), "{run}");
    let stored = record(database).await;
    assert_eq!(history(&stored), ["initialise 0.7.0", "upgrade 0.8.0"], "{run}");
    assert!(!stored.contains_key("journal"), "{stored}");
    let old = apps::count(database, "things", doc! { "a": { "$exists": true } }).await;
    assert_eq!(old, 0, "{run}");
}

#[tokio::test]
async fn a_signal_during_any_write_leaves_nothing_in_doubt_where_the_server_answers() {
    let server = Server::standalone().await;
    // each of the run's updates in turn: the journal begins, documents and its places, the version
    for skip in 0.. {
        let database = old(&server).await;
        let proxy = Proxy::after(skip, port(&server), b"\x02update\0", Loss::Late).await;
        let run = gate(&through(&proxy, &database)).spawn();
        tokio::select! {
            () = proxy.met() => run.signal("TERM"),
            () = done(&database) => {
                assert!(skip > 4, "{skip} updates are not all");
                return;
            }
        }
        let run = run.wait().await;
        assert_eq!(run.code, Some(22), "{run}");
        is_true(&database, &run).await;
        goes_on(&database).await;
        assert_eq!(dump(&database).await[METADATA].len(), 1, "the lock is given up");
        // what arrives at last changes nothing
        let before = dump(&database).await;
        proxy.deliver().await;
        assert_eq!(dump(&database).await, before, "{run}");
    }
}

/// Waits until the upgrade is done.
async fn done(database: &Fresh) {
    support::eventually("the upgrade", async || {
        let done = history(&record(database).await).len() == 2;
        let free = apps::lock(database).await.is_none();
        (done && free).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_lost_with_its_connection_leaves_nothing_in_doubt() {
    let server = Server::standalone().await;
    for (what, words) in [("begins", &b"\x02kind\0"[..]), ("is applied", b"$each")] {
        for loss in [Loss::Close, Loss::Late] {
            let database = old(&server).await;
            let proxy = Proxy::new(port(&server), words, loss).await;
            let run = gate(&through(&proxy, &database)).run().await;
            assert_eq!(run.code, Some(0), "{what}: {run}");
            is_true(&database, &run).await;
            if loss == Loss::Late {
                // what arrives afterwards changes nothing
                let before = dump(&database).await;
                proxy.deliver().await;
                assert_eq!(dump(&database).await, before, "{what}");
            }
            goes_on(&database).await;
        }
    }
}

#[tokio::test]
async fn a_write_that_arrives_after_a_signal_finds_the_record_elsewhere() {
    let server = Server::standalone().await;
    for words in [&b"\x02kind\0"[..], b"$each"] {
        let database = old(&server).await;
        let proxy = Proxy::new(port(&server), words, Loss::Late).await;
        let run = gate(&through(&proxy, &database)).spawn();
        proxy.met().await;
        run.signal("TERM");
        let run = run.wait().await;
        assert_eq!(run.code, Some(22), "{run}");
        is_true(&database, &run).await;
        let before = dump(&database).await;
        proxy.deliver().await;
        assert_eq!(dump(&database).await, before, "{run}");
        goes_on(&database).await;
    }
}

#[tokio::test]
async fn a_server_that_never_answers_leaves_the_version_in_doubt() {
    let server = Server::standalone().await;
    for (words, question) in [
        (&b"\x02kind\0"[..], "whether the upgrade to 0.8.0 has begun"),
        (b"$each", "whether 0.8.0 was applied"),
    ] {
        for code in [22, 20] {
            let database = old(&server).await;
            let proxy = Proxy::new(port(&server), words, Loss::Silence).await;
            let gate = gate(&through(&proxy, &database));
            let gate = match code {
                20 => gate.set("GATE_TIMEOUT", "1s").set("GATE_CONNECT_TIMEOUT", "1s"),
                _ => gate,
            };
            let run = gate.set("GATE_LOCK_LEASE", "5s").spawn();
            proxy.met().await;
            if code == 22 {
                run.signal("TERM");
            }
            let run = run.wait().await;
            assert_eq!(run.code, Some(code), "{run}");
            assert_eq!(run.report["in_doubt"], "0.8.0", "{run}");
            let text = format!("{} | {}", run.report["message"], run.report["next"]);
            for part in [question, "the server did not confirm it", "once the server answers"] {
                assert!(text.contains(part), "{part}: {run}");
            }
            assert!(!text.contains("majority") && !text.contains("nothing was written"), "{run}");
            // it was carried out
            let stored: Document = record(&database).await;
            assert!(stored.contains_key("journal") || history(&stored).len() == 2, "{stored}");
            goes_on(&database).await;
        }
    }
}
