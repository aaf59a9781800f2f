//! A crash harness for authors of upgrades: kills runs at every step boundary and at random instants,
//! runs again, and compares what is in the database with what an uninterrupted run leaves.
//!
//! ```no_run
//! # async fn example(gate: upgrade_gate::Gate) -> Result<(), Box<dyn std::error::Error>> {
//! use upgrade_gate::harness::Harness;
//!
//! let survived = Harness::new(gate, "mongodb://127.0.0.1:27017/?replicaSet=rs0")
//!     .set("GATE_FROM_VERSION", "0.7.0")
//!     .run(async |database| {
//!         // the same documents at every call
//!         let things = database.collection("things");
//!         things.insert_one(upgrade_gate::bson::doc! { "_id": 1, "a": 1 }).await?;
//!         Ok(())
//!     })
//!     .await?;
//! println!("{survived:?}");
//! # Ok(())
//! # }
//! ```
//!
//! A kill is what SIGKILL does to a process, as far as the server can see: every connection closes,
//! nothing is aborted, nothing is released. The run's transaction stays open, its lock stays taken.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::{Client, Database};
use tokio::sync::{Notify, oneshot};

use crate::checkpoint::{Checkpoints, NoCheckpoints};
use crate::exit::Outcome;
use crate::gate::Gate;
use crate::lock::LOCK_ID;
use crate::record::Names;
use crate::report::Report;
use crate::settings::Settings;
use crate::stop::Stop;

pub use crate::checkpoint::Point;

/// How often a killed run is run again before that counts as never getting through.
const RERUNS: usize = 20;

/// The harness: an application's gate, a server, and how much is to be killed.
#[derive(Clone, Debug)]
pub struct Harness {
    gate: Gate,
    uri: String,
    settings: BTreeMap<String, String>,
    boundaries: usize,
    instants: usize,
    seed: u64,
}

/// What was survived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survived {
    /// Runs killed, at boundaries and at instants.
    pub kills: usize,
    /// The boundaries at which runs were killed, and how often.
    pub boundaries: BTreeMap<Point, usize>,
    /// Runs killed at random instants.
    pub instants: usize,
}

/// What went otherwise than in an uninterrupted run, or kept the harness from finding out.
#[derive(Debug)]
pub struct Deviation(String);

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Deviation {}

impl From<mongodb::error::Error> for Deviation {
    fn from(error: mongodb::error::Error) -> Self {
        Deviation(format!("the harness itself failed: {error}"))
    }
}

impl Harness {
    /// A harness for `gate` on the server at `uri`; it makes databases of its own there and drops them.
    pub fn new(gate: Gate, uri: impl Into<String>) -> Self {
        let settings = [("GATE_LOCK_LEASE", "200ms"), ("GATE_BATCH_DOCUMENTS", "3")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Harness {
            gate,
            uri: uri.into(),
            settings: settings.into(),
            boundaries: 40,
            instants: 20,
            seed: fastrand::u64(..),
        }
    }

    /// Sets a setting of every run. `GATE_BATCH_DOCUMENTS` is 3 unless told otherwise, so that a few
    /// documents already go in several batches.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Kills at no more than so many boundaries, spread evenly; 40 unless told otherwise.
    pub fn boundaries(mut self, most: usize) -> Self {
        self.boundaries = most;
        self
    }

    /// Kills at so many random instants; 20 unless told otherwise.
    pub fn instants(mut self, instants: usize) -> Self {
        self.instants = instants;
        self
    }

    /// Chooses the instants by this seed, which every [`Deviation`] names.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Runs all of it. `fill` writes the same documents into an empty database at every call.
    ///
    /// # Errors
    ///
    /// A [`Deviation`] where a run that was killed and run again leaves other documents, another
    /// history or another outcome than an uninterrupted one, or leaves a journal.
    pub async fn run(
        &self,
        fill: impl AsyncFn(&Database) -> Result<(), mongodb::error::Error>,
    ) -> Result<Survived, Deviation> {
        let client = Client::with_uri_str(&self.uri).await?;
        let began = Instant::now();
        let counter = Arc::new(Trap::counting());
        let expected = self.round(&client, &fill, counter.clone(), None).await?;
        let time = began.elapsed();
        let reached = counter.reached();
        let mut survived = Survived::default();
        for at in spread(reached.len(), self.boundaries) {
            let point = reached[at];
            let result = self.round(&client, &fill, Arc::new(Trap::at(at)), None).await?;
            self.compare(&expected, &result, &format!("killed at boundary {at}, {point:?}"))?;
            *survived.boundaries.entry(point).or_default() += 1;
            survived.kills += 1;
        }
        let mut random = fastrand::Rng::with_seed(self.seed);
        for _ in 0..self.instants {
            let instant = time.mul_f64(random.f64());
            let result =
                self.round(&client, &fill, Arc::new(Trap::counting()), Some(instant)).await?;
            self.compare(&expected, &result, &format!("killed after {instant:?}"))?;
            survived.instants += 1;
            survived.kills += 1;
        }
        Ok(survived)
    }

    /// Fills a database, runs, kills, runs again until the run ends by itself, and reads the result.
    async fn round(
        &self,
        client: &Client,
        fill: &impl AsyncFn(&Database) -> Result<(), mongodb::error::Error>,
        trap: Arc<Trap>,
        instant: Option<Duration>,
    ) -> Result<Contents, Deviation> {
        let database = client.database(&format!("harness_{}", ObjectId::new().to_hex()));
        fill(&database).await?;
        let mut report = self.one_run(&database, trap, instant).await?;
        let mut reruns = 0;
        while report.as_ref().is_none_or(|report| report.exit_code != Outcome::Open.code()) {
            if reruns == RERUNS {
                let last = report.map_or("killed".to_owned(), |report| report.to_json());
                return Err(Deviation(format!("{RERUNS} reruns did not get through: {last}")));
            }
            reruns += 1;
            report = self.one_run(&database, Arc::new(NoCheckpoints), None).await?;
        }
        let contents = contents(&database, self.gate.names()).await?;
        database.drop().await?;
        Ok(contents)
    }

    /// One run on a thread and a runtime of its own; none where it was killed.
    async fn one_run(
        &self,
        database: &Database,
        checkpoints: Arc<dyn Killing>,
        instant: Option<Duration>,
    ) -> Result<Option<Report>, Deviation> {
        let mut vars = self.settings.clone();
        vars.insert("GATE_MONGODB_URI".into(), self.uri.clone());
        vars.insert("GATE_DATABASE".into(), database.name().to_owned());
        let bad = |error: String| Deviation(format!("the harness cannot run the gate: {error}"));
        let (code, _) = self.gate.check().map_err(|failure| bad(failure.to_string()))?;
        let settings =
            Settings::from_vars(vars, &code).map_err(|failure| bad(failure.to_string()))?;
        let gate = self.gate.clone();
        let (sender, receiver) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let report = runtime.map(|runtime| {
                let report = runtime.block_on(async {
                    let kill = async {
                        match instant {
                            Some(instant) => tokio::time::sleep(instant).await,
                            None => checkpoints.killed().await,
                        }
                    };
                    tokio::select! {
                        report = gate.run_with(&settings, Stop::new(), checkpoints.clone().passes()) => {
                            Some(report)
                        }
                        () = kill => None,
                    }
                });
                // what the dropped run left to be done in the background is not done any more
                runtime.shutdown_background();
                report
            });
            let _ = sender.send(report);
        });
        match receiver.await {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(error)) => Err(bad(error.to_string())),
            Err(_) => Err(bad("the run panicked".to_owned())),
        }
    }

    fn compare(&self, expected: &Contents, found: &Contents, how: &str) -> Result<(), Deviation> {
        if expected == found {
            return Ok(());
        }
        let collection = expected
            .documents
            .keys()
            .chain(found.documents.keys())
            .find(|name| expected.documents.get(*name) != found.documents.get(*name));
        let what = match collection {
            Some(name) => format!("other documents in {name}"),
            None => format!("another record: {:?} instead of {:?}", found.record, expected.record),
        };
        Err(Deviation(format!("{how} (seed {}): {what}", self.seed)))
    }
}

/// `count` positions below `length`, spread evenly.
fn spread(length: usize, count: usize) -> impl Iterator<Item = usize> {
    let count = count.min(length);
    (0..count).map(move |i| i * length / count)
}

/// A database as a run left it.
#[derive(PartialEq)]
struct Contents {
    /// Every document outside the gate's own two, byte for byte, by collection.
    documents: BTreeMap<String, Vec<RawDocumentBuf>>,
    /// The gate's own, without what differs from run to run.
    record: Vec<Document>,
}

async fn contents(database: &Database, own: &Names) -> Result<Contents, Deviation> {
    let mut contents = Contents { documents: BTreeMap::new(), record: vec![] };
    for name in database.list_collection_names().await? {
        let mut cursor = database
            .collection::<RawDocumentBuf>(&name)
            .find(doc! {})
            .sort(doc! { "_id": 1 })
            .await?;
        let mut documents = Vec::new();
        while cursor.advance().await? {
            let document = cursor.current().to_owned();
            // a run that finds the gate open writes nothing: the lock of a killed one stays, and is over
            if document.get_str("_id").is_ok_and(|id| id == LOCK_ID) {
                continue;
            }
            if name == own.collection {
                let mut record =
                    Document::try_from(&document).map_err(|e| Deviation(e.to_string()))?;
                forget_runs(&mut record);
                contents.record.push(record);
            } else {
                documents.push(document);
            }
        }
        if !documents.is_empty() {
            contents.documents.insert(name, documents);
        }
    }
    Ok(contents)
}

/// Leaves of the record only what every run writes alike.
fn forget_runs(record: &mut Document) {
    if let Ok(history) = record.get_array_mut("history") {
        for entry in history.iter_mut().filter_map(Bson::as_document_mut) {
            for key in ["timestamp", "run_id", "host", "duration_ms", "actions", "late"] {
                entry.remove(key);
            }
        }
    }
}

/// A checkpoint that can end the run.
trait Killing: Send + Sync {
    fn killed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    fn passes(self: Arc<Self>) -> Arc<dyn Checkpoints>;
}

impl Killing for NoCheckpoints {
    fn killed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }

    fn passes(self: Arc<Self>) -> Arc<dyn Checkpoints> {
        self
    }
}

/// Counts the points that a run reaches, and kills it at one of them.
struct Trap {
    kill_at: Option<usize>,
    count: AtomicUsize,
    reached: Mutex<Vec<Point>>,
    sprung: Notify,
}

impl Trap {
    fn new(kill_at: Option<usize>) -> Self {
        Trap {
            kill_at,
            count: AtomicUsize::new(0),
            reached: Mutex::new(vec![]),
            sprung: Notify::new(),
        }
    }

    fn counting() -> Self {
        Trap::new(None)
    }

    fn at(position: usize) -> Self {
        Trap::new(Some(position))
    }

    fn reached(&self) -> Vec<Point> {
        self.reached.lock().map(|points| points.clone()).unwrap_or_default()
    }
}

impl Killing for Trap {
    fn killed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.sprung.notified())
    }

    fn passes(self: Arc<Self>) -> Arc<dyn Checkpoints> {
        self
    }
}

impl Checkpoints for Trap {
    fn reached(&self, point: Point) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let position = self.count.fetch_add(1, Ordering::SeqCst);
        if let Ok(mut reached) = self.reached.lock() {
            reached.push(point);
        }
        if self.kill_at == Some(position) {
            self.sprung.notify_one();
            return Box::pin(std::future::pending());
        }
        Box::pin(std::future::ready(()))
    }
}
