//! A small server that stands behind a gate. Its release knows documents of one shape, those of
//! `things` that have the field `LAB_FIELD`, and it does not serve where it finds others.
//!
//! It answers `GET /` on port 8080 with `LAB_VERSION`. With `LAB_WRITES=true` it also writes documents
//! of its own shape, one after the other, until it is stopped: at once, or so many seconds after SIGTERM
//! as `LAB_STOP_AFTER` says. With `LAB_LEAVES=COLLECTION` it leaves a task there when it gets SIGTERM.

use std::io::{Error, Result};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use upgrade_gate::bson::{DateTime, Document, doc};
use upgrade_gate::mongodb::{Client, Collection};

fn main() -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run())
}

struct Lab {
    version: String,
    field: String,
    things: Collection<Document>,
    leaves: Option<Collection<Document>>,
}

async fn run() -> Result<()> {
    let mut stop = signal(SignalKind::terminate())?;
    let client = Client::with_uri_str(setting("LAB_MONGODB_URI")?).await.map_err(Error::other)?;
    let database = client.default_database();
    let database = database.ok_or_else(|| Error::other("LAB_MONGODB_URI names no database"))?;
    let (version, field) = (setting("LAB_VERSION")?, setting("LAB_FIELD")?);
    let leaves = std::env::var("LAB_LEAVES").ok().filter(|name| !name.is_empty());
    let leaves = leaves.map(|name| database.collection(&name));
    let lab = Lab { version, field, things: database.collection("things"), leaves };
    let delay = std::env::var("LAB_STOP_AFTER").ok().and_then(|seconds| seconds.parse().ok());
    let writes = std::env::var("LAB_WRITES").is_ok_and(|writes| writes == "true");

    lab.look().await?;
    println!("serving {}", lab.version);
    tokio::select! {
        ended = lab.serve() => ended,
        ended = lab.write(), if writes => ended,
        ended = async {
            stop.recv().await;
            lab.leave().await?;
            tokio::time::sleep(Duration::from_secs(delay.unwrap_or(0))).await;
            Ok(())
        } => ended,
    }
}

impl Lab {
    /// An error where there is a document of a shape that this release does not know.
    async fn look(&self) -> Result<()> {
        let unknown = doc! { &self.field: { "$exists": false } };
        let found = self.things.find_one(unknown).await.map_err(Error::other)?;
        let Some(document) = found else { return Ok(()) };
        let problem = format!("{} does not know this shape: {document}", self.version);
        println!("{problem}");
        Err(Error::other(problem))
    }

    async fn serve(&self) -> Result<()> {
        let listener = TcpListener::bind(("0.0.0.0", 8080)).await?;
        loop {
            let (connection, _) = listener.accept().await?;
            // A client that hangs up is no reason to end.
            let _ = self.answer(connection).await;
        }
    }

    async fn answer(&self, mut connection: TcpStream) -> Result<()> {
        // Who asks sends one short request, and no body.
        let _ = connection.read(&mut [0; 4096]).await?;
        let (status, body) = match self.look().await {
            Ok(()) => ("200 OK", self.version.clone()),
            Err(error) => ("503 Service Unavailable", error.to_string()),
        };
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close");
        connection.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await
    }

    /// What is not done yet is noted for the next pod.
    async fn leave(&self) -> Result<()> {
        let Some(tasks) = &self.leaves else { return Ok(()) };
        let task = doc! { "running": true, "lab": &self.version };
        tasks.insert_one(task).await.map(|_| ()).map_err(Error::other)
    }

    /// Each document says when it was written, and by which pod.
    async fn write(&self) -> Result<()> {
        let pod = std::env::var("HOSTNAME").unwrap_or_default();
        for number in 0_i64.. {
            let at = DateTime::now();
            let thing = doc! { &self.field: number, "lab": &self.version, "pod": &pod, "at": at };
            self.things.insert_one(thing).await.map_err(Error::other)?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

fn setting(name: &str) -> Result<String> {
    std::env::var(name).map_err(|error| Error::other(format!("{name}: {error}")))
}
