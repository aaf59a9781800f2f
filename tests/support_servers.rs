//! Each kind of server that the tests stand on is what it says, and ends when it should.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::{Client, Database};
use support::{Server, alive, db_hash, dump, eventually, fixture};

async fn write_in_a_transaction(database: &Database) -> Result<(), Error> {
    let mut session = database.client().start_session().await?;
    session.start_transaction().await?;
    let things = database.collection::<Document>("things");
    things.insert_one(doc! { "_id": 1 }).session(&mut session).await?;
    session.commit_transaction().await
}

/// The server's number for an error.
fn code(error: Error) -> Option<i32> {
    match *error.kind {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Authentication { .. } => Some(18),
        _ => None,
    }
}

async fn ping(uri: &str) -> Result<Document, Error> {
    Client::with_uri_str(uri).await?.database("admin").run_command(doc! { "ping": 1 }).await
}

#[tokio::test]
async fn a_replica_set_takes_a_transaction() {
    let database = Server::shared().await.database().await;
    write_in_a_transaction(&database).await.unwrap();
    assert_eq!(dump(&database).await["things"].len(), 1);
}

#[tokio::test]
async fn two_databases_of_the_shared_server_differ() {
    let server = Server::shared().await;
    let (one, other) = (server.database().await, server.database().await);
    assert_ne!(one.uri, other.uri);
    assert_eq!(db_hash(&one).await, db_hash(&other).await);
    write_in_a_transaction(&one).await.unwrap();
    assert_ne!(db_hash(&one).await, db_hash(&other).await);
    assert!(dump(&other).await.is_empty());
}

#[tokio::test]
async fn the_fixture_is_loaded_byte_for_byte() {
    let database = Server::shared().await.database().await;
    fixture::load(&database).await;
    assert_eq!(db_hash(&database).await, fixture::read().md5);
    assert_eq!(database.collection::<Document>("items").list_index_names().await.unwrap().len(), 7);
}

#[tokio::test]
async fn a_standalone_refuses_a_transaction() {
    let server = Server::standalone().await;
    let database = server.database().await;
    let error = write_in_a_transaction(&database).await.unwrap_err();
    assert_eq!(code(error), Some(20));
}

#[tokio::test]
async fn auth_refuses_a_wrong_password_and_a_missing_privilege() {
    let server = Server::with_auth().await;
    let database = server.database().await;
    write_in_a_transaction(&database).await.unwrap();
    let error = ping(&server.uri_as("root", "wrong", "")).await.unwrap_err();
    assert_eq!(code(error), Some(18));
    let reader = Client::with_uri_str(server.uri_with_roles("lab", &["read"]).await).await.unwrap();
    let lab = reader.default_database().unwrap();
    assert_eq!(dump(&lab).await.len(), 0);
    assert_eq!(code(write_in_a_transaction(&lab).await.unwrap_err()), Some(13));
}

#[tokio::test]
async fn tls_is_required() {
    let server = Server::with_tls().await;
    let database = server.database().await;
    write_in_a_transaction(&database).await.unwrap();
    let (plain, _) = database.uri.split_once('?').unwrap();
    let error =
        ping(&format!("{plain}?replicaSet=rs0&serverSelectionTimeoutMS=300")).await.unwrap_err();
    assert!(matches!(*error.kind, ErrorKind::ServerSelection { .. }), "{error}");
}

#[tokio::test]
async fn three_members_elect_a_new_primary() {
    let server = Server::three_members().await;
    let database = server.database().await;
    write_in_a_transaction(&database).await.unwrap();

    let first = server.step_down().await;
    let second = server.primary().await;
    assert_ne!(first, second);

    let (frozen, pid) = (second, server.pid(second).unwrap());
    server.freeze(frozen);
    let third = server.primary().await;
    assert_ne!(second, third);
    server.thaw(frozen);
    server.settled().await;
    assert_eq!(server.pid(frozen), Some(pid));

    let killed = server.primary().await;
    server.kill(killed);
    assert_eq!(server.pid(killed), None);
    assert_ne!(server.primary().await, killed);
    server.restart(killed).await;
    server.settled().await;
    assert_eq!(dump(&database).await["things"].len(), 1);
}

#[tokio::test]
async fn a_dropped_server_is_gone_even_when_frozen() {
    let server = Server::standalone().await;
    let pid = server.pid(0).unwrap();
    server.freeze(0);
    assert!(alive(pid));
    drop(server);
    assert!(!alive(pid));
}

/// Not a test of its own: the process that the next one kills.
#[tokio::test]
#[ignore = "started by a_server_ends_with_a_killed_test_process"]
async fn start_a_server_and_wait_to_be_killed() {
    let pid = Server::shared().await.pid(0).unwrap();
    println!("\npid {pid}");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_server_ends_with_a_killed_test_process() {
    let mut tests = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "start_a_server_and_wait_to_be_killed", "--ignored", "--nocapture"])
        .env_remove("TEST_MONGODB_URI")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(tests.stdout.take().unwrap()).lines();
    let pid = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("pid ")?.parse().ok())
        .unwrap();
    assert!(alive(pid));
    tests.kill().unwrap();
    tests.wait().unwrap();
    eventually("the server's end", || async { (!alive(pid)).then_some(()) }).await;
}
