//! What every integration test stands on: real servers, the gate as a real process, the fixture.
//!
//! A missing server fails a test; it never skips it.

// Each test binary compiles this module for itself, and uses a part of it.
#![allow(dead_code, unused_imports)]

mod cgroup;
mod example;
pub mod fixture;
pub mod folder;
mod gate;
pub mod guide;
mod mongod;
pub mod proxy;
mod server;
pub mod terminal;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mongodb::Database;
use mongodb::bson::{RawDocumentBuf, cstr, doc};
use mongodb::results::CollectionType;

pub use cgroup::Cgroup;
pub use example::example;
pub use gate::{Gate, Run, Running};
pub use server::{Fresh, Server};

/// The server to start: `MONGOD`, or else the one that `tests/tools/setup` fetches.
pub fn mongod() -> &'static Path {
    static MONGOD: OnceLock<PathBuf> = OnceLock::new();
    MONGOD.get_or_init(|| {
        let path = std::env::var_os("MONGOD").map_or_else(|| setup().into(), PathBuf::from);
        path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    })
}

/// The version of [`mongod`], as far as features come with it.
pub fn mongod_version() -> (u32, u32) {
    static VERSION: OnceLock<(u32, u32)> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let said = Command::new(mongod()).arg("--version").output().expect("mongod runs");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let version = said.split_once("db version v").map(|(_, version)| version);
        let mut parts = version.unwrap_or_else(|| panic!("no version in {said}")).split('.');
        let mut number = || parts.next().and_then(|part| part.parse().ok());
        number().zip(number()).unwrap_or_else(|| panic!("no version in {said}"))
    })
}

/// The address where servers listen: pods reach `E2E_HOST`, all other tests have the loopback interface.
pub fn host() -> String {
    std::env::var("E2E_HOST").unwrap_or_else(|_| LOOPBACK.to_owned())
}

/// Where each server listens besides.
pub const LOOPBACK: &str = "127.0.0.1";

/// `python3` with `packaging`, `pymongo` and `bson` at hand.
pub fn python() -> Command {
    static READY: OnceLock<String> = OnceLock::new();
    READY.get_or_init(setup);
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/python"));
    python
}

fn setup() -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/setup");
    let done = Command::new("python3").arg(script).stderr(Stdio::inherit()).output();
    let done = done.expect("python3 runs: it fetches the server that the tests need");
    assert!(done.status.success(), "tests/tools/setup failed: its message is above");
    String::from_utf8(done.stdout).expect("a path in UTF-8").trim_end().to_owned()
}

/// Every collection's documents, byte for byte, sorted by the bytes of their `_id`.
pub async fn dump(database: &Database) -> BTreeMap<String, Vec<RawDocumentBuf>> {
    let mut contents = BTreeMap::new();
    let mut collections = database.list_collections().await.unwrap();
    while collections.advance().await.unwrap() {
        let collection = collections.deserialize_current().unwrap();
        if !matches!(collection.collection_type, CollectionType::Collection) {
            continue;
        }
        let mut documents = Vec::new();
        let mut cursor =
            database.collection::<RawDocumentBuf>(&collection.name).find(doc! {}).await.unwrap();
        while cursor.advance().await.unwrap() {
            documents.push(cursor.current().to_owned());
        }
        documents.sort_by_cached_key(|document| {
            let mut key = RawDocumentBuf::new();
            key.append(cstr!("_id"), document.get("_id").unwrap().unwrap());
            key.into_bytes()
        });
        contents.insert(collection.name, documents);
    }
    contents
}

/// The server's own digest (`dbHash`) of the whole database: equal means nothing was written.
pub async fn db_hash(database: &Database) -> String {
    let answer = database.run_command(doc! { "dbHash": 1 }).await.unwrap();
    answer.get_str("md5").unwrap().to_owned()
}

/// Asks every 10 ms until `ask` has an answer. Panics after a minute, naming `what`.
pub async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let asked = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(asked.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a process with this pid exists.
pub fn alive(pid: u32) -> bool {
    let ask = format!("kill -0 {pid}");
    let asked = Command::new("sh").args(["-c", &ask]).stderr(Stdio::null()).status();
    asked.unwrap().success()
}
