//! A crash harness for authors of upgrades: kills runs at every step boundary and at random instants,
//! runs again, and compares what is in the database (documents, indexes, options of collections) with what an
//! uninterrupted run leaves.
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
//!
//! By default it ends within about a minute and skips any kills that are left then. Progress goes to stderr, which
//! `cargo test` shows at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use derive_more::Display;
use futures_util::future::BoxFuture;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use mongodb::{Client, Database};
use thiserror::Error;
use tokio::sync::{Notify, oneshot};

use crate::gate::Gate;
use crate::process::checkpoint::{Checkpoints, NoCheckpoints};
use crate::process::exit::Outcome;
use crate::process::report::Report;
use crate::process::settings::Settings;
use crate::record::lock::LOCK_ID;
use crate::record::names::Names;
use crate::server::stop::Stop;

pub use crate::process::checkpoint::Point;

/// How often a killed run is run again before that counts as never getting through.
const RERUNS: usize = 20;

/// The setting that the harness chooses by the number of documents.
const BATCH: &str = "GATE_BATCH_DOCUMENTS";

/// The batches into which the largest collection is divided, unless it is small.
const BATCHES: u64 = 12;

/// The smallest batch that the harness chooses.
const SMALLEST_BATCH: u64 = 3;

/// The largest: the default of the setting.
const LARGEST_BATCH: u64 = 2000;

/// How many fields of a differing document are shown, and how many characters of a value.
const SHOWN_FIELDS: usize = 3;
const SHOWN_LENGTH: usize = 120;

/// How much the clock of the server may be behind.
const CLOCKS: Duration = Duration::from_secs(600);

/// How often it says how far it is.
const PROGRESS: Duration = Duration::from_secs(3);

/// The harness: an application's gate, a server, and how much is to be killed.
#[derive(Clone, Debug)]
pub struct Harness {
    gate: Gate,
    uri: String,
    settings: BTreeMap<String, String>,
    boundaries: usize,
    instants: usize,
    seed: u64,
    /// The time that upgrades see as the start of every run.
    began: DateTime,
    /// No kill is begun that would end after this time, but for one at every kind of boundary.
    within: Duration,
    progress: Progress,
    /// What collections are to hold at the end.
    expected: BTreeMap<String, Vec<Document>>,
}

/// Whether the harness says on stderr how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Shown,
    Hidden,
}

/// What was survived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survived {
    /// Runs killed, at boundaries and at instants.
    pub kills: usize,
    /// The boundaries at which runs were killed, and how often.
    pub boundaries: BTreeMap<Point, usize>,
    /// Runs killed at random instants. One that ended before its instant is not counted.
    pub instants: usize,
}

impl fmt::Display for Survived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Survived { kills, instants, boundaries } = self;
        write!(f, "{kills} kill(s) survived, {instants} at random instants, the others at:")?;
        boundaries.iter().try_for_each(|(point, n)| write!(f, " {point:?} {n}"))
    }
}

/// A difference from an uninterrupted run, or an error that prevented the comparison.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Deviation(String);

impl From<mongodb::error::Error> for Deviation {
    fn from(error: mongodb::error::Error) -> Self {
        Deviation(format!("the harness itself failed: {error}"))
    }
}

impl Harness {
    /// A harness for `gate` on the server at `uri`; it makes databases of its own there and drops them.
    pub fn new(gate: Gate, uri: impl Into<String>) -> Self {
        let lease = ("GATE_LOCK_LEASE".to_owned(), "200ms".to_owned());
        Harness {
            gate,
            uri: uri.into(),
            settings: [lease].into(),
            boundaries: 40,
            instants: 20,
            seed: fastrand::u64(..),
            within: Duration::from_secs(50),
            progress: Progress::Shown,
            began: DateTime::now(),
            expected: BTreeMap::new(),
        }
    }

    /// Sets a setting of every run.
    ///
    /// Unless `GATE_BATCH_DOCUMENTS` is set, batches are so small that the largest collection goes in about
    /// twelve of them, and never smaller than 3 documents.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Kills runs at about this many boundaries (40 by default). They are spread evenly, and every kind of
    /// boundary that a run reaches is among them.
    pub fn boundaries(mut self, most: usize) -> Self {
        self.boundaries = most;
        self
    }

    /// Kills runs at this many random instants (20 by default).
    pub fn instants(mut self, instants: usize) -> Self {
        self.instants = instants;
        self
    }

    /// Chooses the instants by this seed, which every [`Deviation`] names.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Starts no kill that would probably end after this time (50 seconds by default), but kills runs at every kind of
    /// boundary at least once. On a slow machine, or with many documents, fewer runs are then killed than
    /// [`boundaries`](Self::boundaries) and [`instants`](Self::instants) say.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// After the upgrades `collection` must hold exactly these documents, whatever the order of their fields; otherwise
    /// the [`Deviation`] shows what differs. Numbers of other types are other values, and a time that the run itself
    /// wrote, as by `$$NOW`, counts as 1970-01-01.
    pub fn expecting(
        mut self,
        collection: impl Into<String>,
        documents: impl IntoIterator<Item = Document>,
    ) -> Self {
        self.expected.entry(collection.into()).or_default().extend(documents);
        self
    }

    /// Says nothing on stderr.
    pub fn quiet(mut self) -> Self {
        self.progress = Progress::Hidden;
        self
    }

    /// Runs all of it. `fill` writes the same documents into an empty database at every call; several calls
    /// may be under way at once, each for a database of its own.
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
        let mut teller = Teller::new(self.progress);
        teller.say(&format!("an uninterrupted run of {} first", self.gate.app));
        let counter = Arc::new(Trap::counting());
        let undisturbed = self.round(&client, &fill, counter.clone(), None).await?;
        self.compare_expected(&undisturbed)?;
        let unswept = self.round(&client, &fill, Arc::new(Trap::unswept()), None).await?;
        self.compare(
            &unswept,
            &undisturbed,
            "the sweep of convergent steps, which nobody interrupted",
        )?;
        let reached = counter.reached();
        let at_boundaries = chosen(&reached, self.boundaries);
        let mut random = fastrand::Rng::with_seed(self.seed);
        let instants = (0..self.instants).map(|_| undisturbed.first_run.mul_f64(random.f64()));
        let instants: Vec<Kill> = instants.map(Kill::Instant).collect();
        // One of every kind first. The rest is mixed, so that what there is no time for is spread as well.
        let mut kinds = BTreeSet::new();
        let boundaries = at_boundaries.iter().map(|&at| Kill::Boundary(at, reached[at]));
        let (mut kills, mut rest): (Vec<_>, Vec<_>) = boundaries.partition(|kill| match kill {
            Kill::Boundary(_, point) => kinds.insert(*point),
            Kill::Instant(_) => false,
        });
        let musts = kills.len();
        rest.extend(instants);
        random.shuffle(&mut rest);
        kills.append(&mut rest);
        teller.say(&format!(
            "it took {:.1?}; killing {} runs, {} of them at boundaries between steps and batches",
            undisturbed.first_run,
            kills.len(),
            at_boundaries.len()
        ));
        let campaign = Mutex::new(Campaign {
            all: kills.len(),
            kills: kills.into(),
            musts,
            done: 0,
            survived: Survived::default(),
            teller,
        });
        let lane = || self.lane(&client, &fill, &undisturbed, &campaign);
        tokio::try_join!(lane(), lane(), lane(), lane())?;
        let Campaign { survived, mut teller, kills, .. } =
            campaign.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !kills.is_empty() {
            let (left, within) = (kills.len(), self.within);
            teller
                .say(&format!("{left} kill(s) are left out after {within:?}; see Harness::within"));
        }
        teller.say(&survived.to_string());
        Ok(survived)
    }

    /// Makes one kill after the other, until none is left. Much of a round is waiting, so several go on at once.
    async fn lane(
        &self,
        client: &Client,
        fill: &impl AsyncFn(&Database) -> Result<(), mongodb::error::Error>,
        undisturbed: &Round,
        campaign: &Mutex<Campaign>,
    ) -> Result<(), Deviation> {
        let campaign = || campaign.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some(kill) = campaign().next(self.within) else { return Ok(()) };
            let (trap, instant) = match kill {
                Kill::Boundary(at, _) => (Trap::at(at), None),
                Kill::Instant(instant) => (Trap::counting(), Some(instant)),
            };
            let round = self.round(client, fill, Arc::new(trap), instant).await?;
            self.compare(undisturbed, &round, &kill.to_string())?;
            let mut campaign = campaign();
            let survived = &mut campaign.survived;
            match kill {
                Kill::Boundary(_, point) => *survived.boundaries.entry(point).or_default() += 1,
                Kill::Instant(_) => survived.instants += usize::from(round.killed),
            }
            survived.kills += usize::from(round.killed);
            campaign.done += 1;
            let (done, all) = (campaign.done, campaign.all);
            campaign.teller.progress(done, all);
        }
    }

    /// Fills a database, runs, kills, runs again until the run ends by itself, and reads the result.
    async fn round(
        &self,
        client: &Client,
        fill: &impl AsyncFn(&Database) -> Result<(), mongodb::error::Error>,
        trap: Arc<Trap>,
        instant: Option<Duration>,
    ) -> Result<Round, Deviation> {
        let database = client.database(&format!("harness_{}", ObjectId::new().to_hex()));
        let round = self.round_on(&database, fill, trap, instant).await;
        // nothing of it stays, whatever was found
        database.drop().await?;
        round
    }

    async fn round_on(
        &self,
        database: &Database,
        fill: &impl AsyncFn(&Database) -> Result<(), mongodb::error::Error>,
        trap: Arc<Trap>,
        instant: Option<Duration>,
    ) -> Result<Round, Deviation> {
        fill(database).await?;
        let batch = batch(database).await?;
        let began = Instant::now();
        let mut report = self.one_run(database, &batch, trap, instant).await?;
        let (first_run, killed) = (began.elapsed(), report.is_none());
        let mut reruns = 0;
        while report.as_ref().is_none_or(|report| report.exit_code != Outcome::Open.code()) {
            if let Some(report) = report.as_ref().filter(|report| is_final(report)) {
                let Report { exit_code, message, next, .. } = report;
                let next = next.as_deref().unwrap_or_default();
                return Err(Deviation(format!("a run ends with {exit_code}: {message}: {next}")));
            }
            if reruns == RERUNS {
                let last = report.map_or("killed".to_owned(), |report| report.to_json());
                return Err(Deviation(format!("{RERUNS} reruns did not get through: {last}")));
            }
            reruns += 1;
            report = self.one_run(database, &batch, Arc::new(NoCheckpoints), None).await?;
        }
        let contents = contents(database, self.gate.names(), self.began).await?;
        Ok(Round { contents, first_run, killed })
    }

    /// One run on a thread and a runtime of its own; `None` if it was killed.
    async fn one_run(
        &self,
        database: &Database,
        batch: &str,
        checkpoints: Arc<dyn Killing>,
        instant: Option<Duration>,
    ) -> Result<Option<Report>, Deviation> {
        let mut vars = self.settings.clone();
        vars.entry(BATCH.to_owned()).or_insert_with(|| batch.to_owned());
        vars.insert("GATE_MONGODB_URI".into(), self.uri.clone());
        vars.insert("GATE_DATABASE".into(), database.name().to_owned());
        let bad = |error: String| Deviation(format!("the harness cannot run the gate: {error}"));
        let code = self.gate.check().map_err(|failure| bad(failure.to_string()))?;
        let settings =
            Settings::from_vars(vars, &code).map_err(|failure| bad(failure.to_string()))?;
        // the time that upgrades see may be in their documents
        let gate = self.gate.clone().began(self.began);
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

    /// Compares what an uninterrupted run left with what the caller expects.
    fn compare_expected(&self, round: &Round) -> Result<(), Deviation> {
        for (name, expected) in &self.expected {
            let found = round.contents.decoded(name)?;
            if let Some(difference) = difference(name, expected, &found) {
                return Err(Deviation(difference));
            }
        }
        Ok(())
    }

    fn compare(&self, expected: &Round, found: &Round, how: &str) -> Result<(), Deviation> {
        let (expected, found) = (&expected.contents, &found.contents);
        if expected == found {
            return Ok(());
        }
        let collection = expected
            .documents
            .keys()
            .chain(found.documents.keys())
            .find(|name| expected.documents.get(*name) != found.documents.get(*name));
        let other = expected
            .kept
            .keys()
            .chain(found.kept.keys())
            .find(|name| expected.kept.get(*name) != found.kept.get(*name));
        let what = match (collection, other) {
            (Some(name), _) => {
                let order = || format!("{name} has the fields of a document in another order");
                let difference = difference(name, &expected.decoded(name)?, &found.decoded(name)?);
                let whole = "than an uninterrupted run leaves";
                format!("other documents {whole}: {}", difference.unwrap_or_else(order))
            }
            (None, Some(name)) => format!("{name} is not there, or has other options or indexes"),
            (None, None) => {
                format!("another record: {:?} instead of {:?}", found.record, expected.record)
            }
        };
        Err(Deviation(format!("{how} (seed {}): {what}", self.seed)))
    }
}

/// Whether a run ended in a way that running it again does not change.
fn is_final(report: &Report) -> bool {
    let ended = Outcome::ALL.iter().find(|outcome| outcome.code() == report.exit_code);
    ended.is_some_and(|outcome| *outcome != Outcome::Open && !outcome.retry_can_help())
}

/// The first difference between documents of a collection, by `_id`; `None` if it is only in the order of fields.
fn difference(collection: &str, expected: &[Document], found: &[Document]) -> Option<String> {
    let by_id = |documents: &[Document]| -> BTreeMap<String, Document> {
        let id = |document: &Document| document.get("_id").map(shown).unwrap_or_default();
        documents.iter().map(|document| (id(document), document.clone())).collect()
    };
    let (expected, found) = (by_id(expected), by_id(found));
    if let Some(id) = found.keys().find(|id| !expected.contains_key(*id)) {
        return Some(format!("document {id} is in {collection}, and is not expected there"));
    }
    for (id, expected) in &expected {
        let Some(found) = found.get(id) else {
            return Some(format!("document {id} is missing in {collection}"));
        };
        let fields = expected.keys().chain(found.keys().filter(|key| !expected.contains_key(*key)));
        let differing = fields.filter(|key| expected.get(*key) != found.get(*key));
        let told: Vec<String> = differing
            .take(SHOWN_FIELDS)
            .map(|key| {
                let value = |of: &Document| of.get(key).map_or("missing".to_owned(), shown);
                let (mut is, mut should) = (value(found), value(expected));
                if is == should {
                    // numbers of two types
                    let text =
                        |of: &Document| of.get(key).map(|it| format!("{it:?}")).unwrap_or_default();
                    (is, should) = (text(found), text(expected));
                }
                format!("`{key}` is {is}, expected {should}")
            })
            .collect();
        if !told.is_empty() {
            return Some(format!("document {id} of {collection}: {}", told.join("; ")));
        }
    }
    None
}

/// A value of a test's own documents, cut where it is long.
fn shown(value: &Bson) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// `count` positions of what was reached, spread evenly, and the first of every kind.
fn chosen(reached: &[Point], count: usize) -> BTreeSet<usize> {
    if count == 0 {
        return BTreeSet::new();
    }
    let even = count.min(reached.len());
    let spread = (0..even).map(|i| i * reached.len() / even);
    let kinds: BTreeSet<Point> = reached.iter().copied().collect();
    let first = kinds.into_iter().filter_map(|kind| reached.iter().position(|p| *p == kind));
    spread.chain(first).collect()
}

/// A batch size by which the largest collection goes in several batches, but not in very many.
async fn batch(database: &Database) -> Result<String, Deviation> {
    let mut most = 0;
    for name in database.list_collection_names().await? {
        let count = database.collection::<Document>(&name).estimated_document_count().await?;
        most = most.max(count);
    }
    Ok(most.div_ceil(BATCHES).clamp(SMALLEST_BATCH, LARGEST_BATCH).to_string())
}

/// Says on stderr how far the harness is: past the capture of `cargo test`, which only catches `eprintln`.
struct Teller {
    progress: Progress,
    began: Instant,
    said: Instant,
}

impl Teller {
    fn new(progress: Progress) -> Self {
        Teller { progress, began: Instant::now(), said: Instant::now() }
    }

    fn say(&mut self, text: &str) {
        if self.progress == Progress::Shown {
            // nobody may be reading it
            let _ = writeln!(std::io::stderr(), "harness: {text}");
            self.said = Instant::now();
        }
    }

    fn progress(&mut self, done: usize, all: usize) {
        if self.said.elapsed() >= PROGRESS && done > 0 && done < all {
            let elapsed = self.began.elapsed();
            let left = elapsed.mul_f64((all - done) as f64 / done as f64);
            let (elapsed, left) = (elapsed.as_secs(), left.as_secs());
            self.say(&format!("{done} of {all} runs after {elapsed} s, about {left} s left"));
        }
    }
}

/// When a run is killed.
#[derive(Display)]
enum Kill {
    /// At the boundary of this position, which is of this kind.
    #[display("killed at boundary {_0}, {_1:?}")]
    Boundary(usize, Point),
    #[display("killed after {_0:?}")]
    Instant(Duration),
}

/// The kills that are left to do, and how those before went.
struct Campaign {
    kills: VecDeque<Kill>,
    /// How many of the first have to be done, however long it takes.
    musts: usize,
    all: usize,
    done: usize,
    survived: Survived,
    teller: Teller,
}

impl Campaign {
    /// The next kill, if there is one and there is time for it.
    fn next(&mut self, within: Duration) -> Option<Kill> {
        let begun = self.all - self.kills.len();
        let elapsed = self.teller.began.elapsed();
        // what a kill takes from fill to comparison, by those that are done
        let one = elapsed.mul_f64((begun - self.done) as f64 / self.done.max(1) as f64);
        if begun >= self.musts && elapsed + one.min(within / 2) >= within {
            return None;
        }
        self.kills.pop_front()
    }
}

/// What one database went through.
struct Round {
    contents: Contents,
    /// How long the first run took, killed or not.
    first_run: Duration,
    /// Whether the first run was killed, and not over before.
    killed: bool,
}

/// A database as a run left it.
#[derive(PartialEq)]
struct Contents {
    /// Every document outside the gate's own two, byte for byte, by collection.
    documents: BTreeMap<String, Vec<RawDocumentBuf>>,
    /// The options and the indexes of every collection.
    kept: BTreeMap<String, Vec<Document>>,
    /// The gate's own, without what differs from run to run.
    record: Vec<Document>,
}

impl Contents {
    /// The documents of a collection; none where it is not there.
    fn decoded(&self, collection: &str) -> Result<Vec<Document>, Deviation> {
        let decode = |raw: &RawDocumentBuf| {
            Document::try_from(raw).map_err(|error| Deviation(error.to_string()))
        };
        self.documents.get(collection).into_iter().flatten().map(decode).collect()
    }
}

async fn contents(
    database: &Database,
    own: &Names,
    since: DateTime,
) -> Result<Contents, Deviation> {
    let mut contents =
        Contents { documents: BTreeMap::new(), kept: kept(database).await?, record: vec![] };
    for name in database.list_collection_names().await? {
        let mut cursor = database
            .collection::<RawDocumentBuf>(&name)
            .find(doc! {})
            .sort(doc! { "_id": 1 })
            .await?;
        let mut documents = Vec::new();
        while cursor.advance().await? {
            let document = without_now(cursor.current().to_owned(), since)?;
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

/// A document with 1970 in place of every time since then, which the server's `$$NOW` left and no two runs share.
fn without_now(document: RawDocumentBuf, since: DateTime) -> Result<RawDocumentBuf, Deviation> {
    fn forget(value: &mut Bson, since: DateTime) -> bool {
        match value {
            Bson::DateTime(time) if *time >= since => {
                *time = DateTime::from_millis(0);
                true
            }
            Bson::Array(values) => values.iter_mut().fold(false, |any, it| forget(it, since) | any),
            Bson::Document(document) => {
                document.iter_mut().fold(false, |any, (_, it)| forget(it, since) | any)
            }
            _ => false,
        }
    }
    // the clocks of two machines differ
    let since = DateTime::from_millis(since.timestamp_millis() - CLOCKS.as_millis() as i64);
    // what cannot be decoded is compared as it is
    let Ok(mut decoded) = Document::try_from(&document) else { return Ok(document) };
    let any = decoded.iter_mut().fold(false, |any, (_, value)| forget(value, since) | any);
    match any {
        true => RawDocumentBuf::try_from(&decoded).map_err(|error| Deviation(error.to_string())),
        false => Ok(document),
    }
}

/// The options of every collection, and its indexes by name.
async fn kept(database: &Database) -> Result<BTreeMap<String, Vec<Document>>, Deviation> {
    let mut kept = BTreeMap::new();
    let mut cursor = database.run_cursor_command(doc! { "listCollections": 1 }).await?;
    while cursor.advance().await? {
        let known = Document::try_from(cursor.current()).map_err(|e| Deviation(e.to_string()))?;
        let name = known.get_str("name").unwrap_or_default().to_owned();
        let mut of_it = vec![known.get_document("options").cloned().unwrap_or_default()];
        if known.get_str("type").is_ok_and(|kind| kind == "collection") {
            let list = doc! { "listIndexes": &name };
            let mut indexes = Vec::new();
            let mut cursor = database.run_cursor_command(list).await?;
            while cursor.advance().await? {
                let index = Document::try_from(cursor.current());
                indexes.push(index.map_err(|e| Deviation(e.to_string()))?);
            }
            indexes.sort_by_key(|index| index.get_str("name").unwrap_or_default().to_owned());
            of_it.extend(indexes);
        }
        kept.insert(name, of_it);
    }
    Ok(kept)
}

/// Leaves of the record only what every run writes alike.
fn forget_runs(record: &mut Document) {
    if let Ok(history) = record.get_array_mut("history") {
        for entry in history.iter_mut().filter_map(Bson::as_document_mut) {
            for key in
                ["documents", "timestamp", "run_id", "host", "duration_ms", "actions", "late"]
            {
                entry.remove(key);
            }
        }
        // a killed sweep leaves the entry of what it did
        let is_sweep = |entry: &Bson| {
            entry.as_document().is_some_and(|e| e.get_str("action").is_ok_and(|it| it == "sweep"))
        };
        history.dedup_by(|next, entry| is_sweep(next) && is_sweep(entry));
    }
}

/// A checkpoint that can end the run.
trait Killing: Send + Sync {
    fn killed(&self) -> BoxFuture<'_, ()>;
    fn passes(self: Arc<Self>) -> Arc<dyn Checkpoints>;
}

impl Killing for NoCheckpoints {
    fn killed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn passes(self: Arc<Self>) -> Arc<dyn Checkpoints> {
        self
    }
}

/// Counts the points that a run reaches, and kills it at one of them.
struct Trap {
    kill_at: Option<usize>,
    sweeps: bool,
    count: AtomicUsize,
    reached: Mutex<Vec<Point>>,
    sprung: Notify,
}

impl Trap {
    fn new(kill_at: Option<usize>) -> Self {
        Trap {
            kill_at,
            sweeps: true,
            count: AtomicUsize::new(0),
            reached: Mutex::new(vec![]),
            sprung: Notify::new(),
        }
    }

    fn counting() -> Self {
        Trap::new(None)
    }

    /// A run without the sweep of convergent transforms.
    fn unswept() -> Self {
        Trap { sweeps: false, ..Trap::counting() }
    }

    fn at(position: usize) -> Self {
        Trap::new(Some(position))
    }

    fn reached(&self) -> Vec<Point> {
        self.reached.lock().map(|points| points.clone()).unwrap_or_default()
    }
}

impl Killing for Trap {
    fn killed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.sprung.notified())
    }

    fn passes(self: Arc<Self>) -> Arc<dyn Checkpoints> {
        self
    }
}

impl Checkpoints for Trap {
    fn sweeps(&self) -> bool {
        self.sweeps
    }

    fn reached(&self, point: Point) -> BoxFuture<'_, ()> {
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
