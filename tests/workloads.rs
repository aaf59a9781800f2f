//! Old code that is stopped while its data changes, with workloads that a test plugs in: when they are
//! stopped, restored and given back, on a real database.

mod apps;
mod support;

#[allow(dead_code, reason = "the campaign uses all of it")]
#[path = "chaos/faults.rs"]
mod faults;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use apps::METADATA;
use mongodb::Database;
use mongodb::bson::{Bson, Document, RawDocument, doc};
use support::{Fresh, Server};
use tokio::sync::Notify;
use upgrade_gate::{
    ActionType, BoxFuture, Condition, Edits, Failure, Found, Gate, Notice, Observer, Occasion,
    Outcome, Report, Scaled, Settings, StepError, Tone, Transform, Upgrade, Version, Workload,
    Workloads,
};

const WEB: &str = "deployment/web";

type Hook = Box<dyn FnMut(&mut State) + Send>;

/// One workload, and whatever else a test wants of it.
#[derive(Default)]
struct Stage {
    state: Mutex<State>,
    /// What the old code still writes when it is stopped.
    last_words: Mutex<Option<(Database, Document)>>,
    /// Where another run takes the lock over, at the first look.
    thief: Mutex<Option<Database>>,
    /// Called at every look.
    on_look: Mutex<Option<Hook>>,
    /// Told when it was stopped.
    stopped: Notify,
}

#[derive(Clone, Debug)]
struct State {
    exists: bool,
    uid: &'static str,
    replicas: u32,
    /// Pods that do not stop.
    stuck: Vec<String>,
    /// What every call but a look at the names ends with.
    broken: Option<Outcome>,
    /// What the check before the lock ends with.
    refused: Option<Outcome>,
    /// Calls that stop it are not answered, and do nothing yet.
    lost: bool,
    looks: usize,
    scaled: Vec<u32>,
}

impl Default for State {
    fn default() -> Self {
        State {
            exists: true,
            uid: "uid-1",
            replicas: 3,
            stuck: vec![],
            broken: None,
            refused: None,
            lost: false,
            looks: 0,
            scaled: vec![],
        }
    }
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.state.fmt(f)
    }
}

impl Stage {
    fn with(change: impl FnOnce(&mut State)) -> Arc<Stage> {
        let stage = Stage::default();
        change(&mut stage.state.lock().unwrap());
        Arc::new(stage)
    }

    fn state(&self) -> State {
        self.state.lock().unwrap().clone()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    fn on_look(&self, hook: impl FnMut(&mut State) + Send + 'static) {
        *self.on_look.lock().unwrap() = Some(Box::new(hook));
    }

    fn answers(&self) -> Result<State, Failure> {
        let state = self.state();
        dark(state.broken).map(|()| state)
    }
}

fn dark(outcome: Option<Outcome>) -> Result<(), Failure> {
    match outcome {
        Some(outcome) => Err(Failure::new(outcome, "the stage is dark", "turn on the light")),
        None => Ok(()),
    }
}

/// Another run has the lock, as after a pause of the one that had it.
async fn take_over(database: &Database) {
    let locks = database.collection::<Document>(METADATA);
    let taken = doc! { "$set": { "run_id": "another" } };
    locks.update_one(doc! { "_id": "upgrade_lock" }, taken).await.unwrap();
}

impl Workloads for Stage {
    fn namespace(&self) -> &str {
        "lab"
    }

    fn names(&self) -> Vec<String> {
        vec![WEB.to_owned()]
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async { self.answers().and_then(|state| dark(state.refused)) })
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Workload>, Failure>> {
        Box::pin(async move {
            let thief = self.thief.lock().unwrap().take();
            if let Some(database) = thief {
                take_over(&database).await;
            }
            let mut state = self.state();
            if let Some(hook) = &mut *self.on_look.lock().unwrap() {
                hook(&mut state);
            }
            state.looks += 1;
            self.change(|stored| *stored = state);
            let state = self.answers()?;
            let pods: Vec<String> = (0..state.replicas).map(|n| format!("web-{n}")).collect();
            Ok(state.exists.then(|| {
                let mut workload = Workload::new(name, state.uid, state.scaled.len().to_string());
                workload.replicas = state.replicas;
                workload.ready = state.replicas;
                workload.pods = [pods, state.stuck.clone()].concat();
                let ordered = state.stuck.iter().find(|pod| pod.starts_with("db"));
                workload.freed_by = ordered.map(|pod| format!("delete {pod}"));
                workload
            }))
        })
    }

    fn scale<'a>(
        &'a self,
        _: &'a Workload,
        replicas: u32,
    ) -> BoxFuture<'a, Result<Scaled, Failure>> {
        Box::pin(async move {
            let state = self.answers()?;
            dark((state.lost && replicas == 0).then_some(Outcome::NoServer))?;
            let words = self.last_words.lock().unwrap().take();
            if let Some((database, words)) = words {
                database.collection("things").insert_one(words).await.unwrap();
            }
            self.change(|state| {
                state.replicas = replicas;
                state.scaled.push(replicas);
            });
            if replicas == 0 {
                self.stopped.notify_one();
            }
            Ok(Scaled::Done)
        })
    }

    fn by_hand(&self, name: &str, replicas: u32) -> String {
        format!("set {name} to {replicas}")
    }
}

/// Keeps what it is told.
#[derive(Debug, Default)]
struct Ear(Mutex<Vec<Notice>>);

impl Observer for Ear {
    fn tell(&self, notice: Notice) {
        self.0.lock().unwrap().push(notice);
    }

    fn finish(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

fn move_field(document: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    if let Ok(Some(a)) = document.get("a") {
        edits.set("b", a);
        edits.unset("a");
        edits.count("moved", 1);
    }
    Ok(())
}

fn upgrade() -> Upgrade {
    Upgrade::new("0.8.0", "move a to b")
        .condition(Condition::no_document("things", doc! { "bad": true }, "nothing is bad"))
        .step(
            Transform::new("things", move_field)
                .filter(doc! { "a": { "$exists": true } })
                .action(ActionType::Update, "moved", "Move {n} field(s)")
                .convergent(),
        )
}

fn settings(database: &Fresh, more: &[(&str, &str)]) -> Settings {
    let all = [("GATE_MONGODB_URI", database.uri.as_str())];
    let vars = all.iter().chain(more).map(|(name, value)| (name.to_string(), value.to_string()));
    Settings::from_vars(vars, &Version::parse("0.8.0").unwrap()).unwrap()
}

fn gate(stage: &Arc<Stage>) -> Gate {
    Gate::new("scenario", "0.8.0").upgrades([upgrade()]).workloads(stage.clone())
}

async fn run(database: &Fresh, stage: &Arc<Stage>, more: &[(&str, &str)]) -> Report {
    gate(stage).run(&settings(database, more)).await
}

/// A database at 0.7.0 with so many documents of the old shape.
async fn old(documents: i32) -> Fresh {
    let database = Server::shared().await.database().await;
    apps::record_old(&database).await;
    if documents > 0 {
        apps::fill(&database, "things", (0..documents).map(|i| doc! { "_id": i, "a": i })).await;
    }
    database
}

async fn old_shaped(database: &Database) -> u64 {
    apps::count(database, "things", doc! { "a": { "$exists": true } }).await
}

/// What is remembered: name, number, version.
async fn remembered(database: &Database) -> Vec<(String, i64, Option<String>)> {
    let id = doc! { "_id": "scenario_schema_version.quiesced" };
    let stored = database.collection::<Document>(METADATA).find_one(id).await.unwrap();
    let Some(stored) = stored else { return vec![] };
    let entries = stored.get_array("workloads").unwrap().iter().map(|e| e.as_document().unwrap());
    let number = |value: &Bson| value.as_i64().or(value.as_i32().map(i64::from)).unwrap();
    let entry = |entry: &Document| {
        (
            entry.get_str("name").unwrap().to_owned(),
            number(entry.get("replicas").unwrap()),
            entry.get_str("version").ok().map(str::to_owned),
        )
    };
    entries.map(entry).collect()
}

fn web(replicas: i64) -> Vec<(String, i64, Option<String>)> {
    vec![(WEB.to_owned(), replicas, Some("0.7.0".to_owned()))]
}

#[track_caller]
fn assert_code(report: &Report, code: u8) {
    assert_eq!(report.exit_code, code, "{}", report.to_json());
}

#[track_caller]
fn assert_says(report: &Report, parts: &[&str]) {
    let json = report.to_json();
    parts.iter().for_each(|part| assert!(json.contains(part), "{part:?} is missing in {json}"));
}

#[tokio::test]
async fn old_code_is_stopped_before_the_first_write_and_stays_so_for_the_release() {
    let (database, stage) = (old(5).await, Stage::with(|_| ()));
    // a write of the old code's last moment is not lost either
    let late = doc! { "_id": "late", "a": 1 };
    *stage.last_words.lock().unwrap() = Some((database.clone(), late));
    let report = run(&database, &stage, &[]).await;
    assert_code(&report, 0);
    assert_says(&report, &["Move 6 field(s)", "\"stopped\"", WEB]);
    assert!(!report.to_json().contains("still running"), "{}", report.to_json());
    assert_eq!((stage.state().replicas, stage.state().scaled), (0, vec![0]));
    assert_eq!(old_shaped(&database).await, 0);
    assert_eq!(remembered(&database).await, web(3));
}

/// The twin: nothing stops the old code, and the run says so.
#[tokio::test]
async fn without_workloads_a_run_warns_of_old_code() {
    let database = old(5).await;
    let gate = Gate::new("scenario", "0.8.0").upgrades([upgrade()]);
    let report = gate.run(&settings(&database, &[])).await;
    assert_code(&report, 0);
    assert_says(&report, &["still running"]);
}

#[tokio::test]
async fn nothing_is_touched_where_nothing_is_pending_or_a_condition_does_not_hold() {
    let (database, stage) = (old(1).await, Stage::with(|_| ()));
    apps::fill(&database, "things", [doc! { "_id": "bad", "bad": true }]).await;
    assert_code(&run(&database, &stage, &[]).await, 13);
    let things = database.collection::<Document>("things");
    things.delete_one(doc! { "_id": "bad" }).await.unwrap();
    assert_eq!(stage.state().looks, 0);
    assert_code(&run(&database, &stage, &[]).await, 0);
    let (state, again) = (stage.state(), Stage::with(|_| ()));
    assert_eq!(state.scaled, [0]);
    assert_code(&run(&database, &again, &[]).await, 0);
    assert_eq!(again.state().looks, 0, "{again:?}");
}

#[tokio::test]
async fn a_condition_that_old_code_breaks_until_it_stops_restores_it() {
    let (database, stage) = (old(1).await, Stage::with(|_| ()));
    let bad = doc! { "_id": "bad", "bad": true };
    *stage.last_words.lock().unwrap() = Some((database.clone(), bad));
    let report = run(&database, &stage, &[]).await;
    assert_code(&report, 13);
    assert_says(&report, &["nothing was written", "\"restored\""]);
    assert_eq!((stage.state().replicas, stage.state().scaled), (3, vec![0, 3]));
    assert_eq!(old_shaped(&database).await, 1);
    assert_eq!(remembered(&database).await, []);
    assert_eq!(apps::lock(&database).await, None);
}

#[tokio::test]
async fn an_upgrade_that_fails_before_its_first_commit_restores_old_code() {
    let (database, stage) = (old(2).await, Stage::with(|_| ()));
    let unique = doc! { "createIndexes": "things", "indexes": [
        { "key": { "b": 1 }, "name": "b", "unique": true, "partialFilterExpression": { "b": { "$exists": true } } },
    ]};
    database.run_command(unique).await.unwrap();
    apps::fill(&database, "things", [doc! { "_id": "taken", "b": 1 }]).await;
    let report = run(&database, &stage, &[]).await;
    assert_code(&report, 14);
    assert_eq!(stage.state().scaled, [0, 3]);
    assert_eq!((old_shaped(&database).await, remembered(&database).await), (2, vec![]));
}

#[tokio::test]
async fn old_code_that_comes_back_before_the_version_moves_ends_the_run() {
    let (database, stage) = (old(2).await, Stage::with(|_| ()));
    stage.on_look(|state| {
        if state.scaled == [0] && state.looks >= 2 {
            state.replicas = 1;
        }
    });
    let report = run(&database, &stage, &[]).await;
    assert_code(&report, 23);
    assert_says(&report, &[WEB, "set to 1 pods", "web-0", "nothing was written"]);
    // what somebody set is left as it is
    assert_eq!((stage.state().replicas, stage.state().scaled), (1, vec![0]));
    assert_eq!((old_shaped(&database).await, remembered(&database).await), (2, vec![]));
}

#[tokio::test]
async fn old_code_that_comes_back_in_the_middle_ends_the_run_and_the_next_one_finishes() {
    let (database, stage) = (old(800).await, Stage::with(|_| ()));
    let many = [("GATE_BATCH_DOCUMENTS", "1"), ("GATE_LOCK_LEASE", "1500ms")];
    let somebody = async {
        let moved = doc! { "b": { "$exists": true } };
        let first =
            || async { (apps::count(&database, "things", moved.clone()).await > 0).then_some(()) };
        support::eventually("the first batch", first).await;
        stage.change(|state| state.replicas = 2);
    };
    let (report, ()) = tokio::join!(run(&database, &stage, &many), somebody);
    assert_code(&report, 23);
    assert_says(&report, &["is unfinished after", "must stay at 0", "started again"]);
    assert!((1..800).contains(&old_shaped(&database).await));
    assert_eq!(stage.state().scaled, [0], "after a commit nothing is restored");
    assert_code(&run(&database, &stage, &[]).await, 0);
    assert_eq!(stage.state().scaled, [0, 0]);
    assert_eq!(old_shaped(&database).await, 0);
    assert_eq!(
        remembered(&database).await,
        web(2),
        "a number found above 0 overwrites an older one"
    );
}

#[tokio::test]
async fn pods_that_do_not_stop_in_time_restore_and_say_what_frees_them() {
    for (pod, says) in [("db-0", "free it by: delete db-0"), ("web-9", "GATE_QUIESCE_TIMEOUT")] {
        let (database, stage) = (old(2).await, Stage::with(|state| state.stuck = vec![pod.into()]));
        let report = run(&database, &stage, &[("GATE_QUIESCE_TIMEOUT", "300ms")]).await;
        assert_code(&report, 23);
        assert_says(&report, &["did not stop within 300ms", pod, says]);
        assert_eq!(stage.state().scaled, [0, 3]);
        assert_eq!((old_shaped(&database).await, remembered(&database).await), (2, vec![]));
        // somebody deletes it
        stage.change(|state| state.stuck.clear());
        assert_code(&run(&database, &stage, &[]).await, 0);
        assert_eq!(old_shaped(&database).await, 0);
    }
}

/// Runs until the old code is stopped, and is gone then as after SIGKILL.
async fn killed_after_stopping(database: &Fresh, stage: &Arc<Stage>) {
    // the pod that does not stop keeps the run where it is
    stage.change(|state| state.stuck = vec!["web-9".into()]);
    let (gate, settings) = (gate(stage), settings(database, &[("GATE_LOCK_LEASE", "300ms")]));
    tokio::select! {
        report = gate.run(&settings) => panic!("{}", report.to_json()),
        () = stage.stopped.notified() => {}
    }
    stage.change(|state| state.stuck.clear());
}

#[tokio::test]
async fn what_a_killed_run_stopped_is_restored_by_the_next_that_ends_without_a_commit() {
    let (database, stage) = (old(2).await, Stage::with(|_| ()));
    killed_after_stopping(&database, &stage).await;
    assert_eq!((stage.state().replicas, remembered(&database).await), (0, web(3)));
    apps::fill(&database, "things", [doc! { "_id": "bad", "bad": true }]).await;
    assert_code(&run(&database, &stage, &[]).await, 13);
    assert_eq!((stage.state().replicas, remembered(&database).await), (3, vec![]));
    // a number that was raised meanwhile is the one to restore
    let (bad, things) = (doc! { "_id": "bad" }, database.collection::<Document>("things"));
    things.delete_one(bad.clone()).await.unwrap();
    stage.change(|state| state.replicas = 5);
    *stage.last_words.lock().unwrap() =
        Some((database.clone(), doc! { "_id": "bad", "bad": true }));
    assert_code(&run(&database, &stage, &[]).await, 13);
    assert_eq!(stage.state().replicas, 5);
}

#[tokio::test]
async fn what_a_killed_run_stopped_is_restored_by_a_release_that_has_nothing_to_do() {
    let (database, stage) = (old(2).await, Stage::with(|_| ()));
    killed_after_stopping(&database, &stage).await;
    // the former release, rolled back to
    let former = Gate::new("scenario", "0.7.0").workloads(stage.clone());
    let report = former.run(&settings(&database, &[])).await;
    assert_code(&report, 0);
    assert_eq!((stage.state().replicas, remembered(&database).await), (3, vec![]));
}

#[tokio::test]
async fn the_run_after_a_killed_one_finishes_with_the_number_that_was_first() {
    let (database, stage) = (old(2).await, Stage::with(|_| ()));
    killed_after_stopping(&database, &stage).await;
    assert_code(&run(&database, &stage, &[]).await, 0);
    assert_eq!((stage.state().replicas, remembered(&database).await), (0, web(3)));
}

#[tokio::test]
async fn resume_gives_back_once_the_gate_is_open_and_not_before() {
    let (database, stage) = (old(2).await, Stage::with(|_| ()));
    let resume = [("GATE_MODE", "resume")];
    killed_after_stopping(&database, &stage).await;
    assert_code(&run(&database, &stage, &resume).await, 10);
    assert_eq!(stage.state().replicas, 0);
    assert_code(&run(&database, &stage, &[]).await, 0);
    assert_eq!(stage.state().replicas, 0);
    let report = run(&database, &stage, &resume).await;
    assert_code(&report, 0);
    assert_says(&report, &["\"resumed\""]);
    assert_eq!((stage.state().replicas, remembered(&database).await), (3, vec![]));
    // there is nothing left to give
    let looks = stage.state().looks;
    assert_code(&run(&database, &stage, &resume).await, 0);
    assert_eq!(stage.state().looks, looks);
}

#[tokio::test]
async fn resume_leaves_what_somebody_set_or_made_anew() {
    for change in [
        (|state: &mut State| state.replicas = 1) as fn(&mut State),
        |state| state.uid = "uid-2",
        |state| state.exists = false,
    ] {
        let (database, stage) = (old(2).await, Stage::with(|_| ()));
        assert_code(&run(&database, &stage, &[]).await, 0);
        stage.change(change);
        assert_code(&run(&database, &stage, &[("GATE_MODE", "resume")]).await, 0);
        assert_eq!((stage.state().scaled, remembered(&database).await), (vec![0], vec![]));
    }
}

#[tokio::test]
async fn resume_without_workloads_is_a_wrong_setting() {
    let database = old(0).await;
    let gate = Gate::new("scenario", "0.7.0");
    let report = gate.run(&settings(&database, &[("GATE_MODE", "resume")])).await;
    assert_code(&report, 16);
    assert_says(&report, &["GATE_QUIESCE"]);
}

#[tokio::test]
async fn the_run_that_upgraded_gives_back_at_its_end_where_it_is_told_to() {
    let (database, stage) = (old(2).await, Stage::with(|_| ()));
    let at_end = [("GATE_RESUME", "true")];
    let report = run(&database, &stage, &at_end).await;
    assert_code(&report, 0);
    assert_eq!((stage.state().scaled, remembered(&database).await), (vec![0, 3], vec![]));
    // also after a kill between the upgrade and its end
    let (database, stage) = (old(2).await, Stage::with(|_| ()));
    assert_code(&run(&database, &stage, &[]).await, 0);
    assert_eq!(stage.state().replicas, 0);
    assert_code(&run(&database, &stage, &at_end).await, 0);
    assert_eq!(stage.state().replicas, 3);
}

#[tokio::test]
async fn a_workload_that_does_not_exist_yet_is_a_warning() {
    let (database, stage) = (old(2).await, Stage::with(|state| state.exists = false));
    let report = run(&database, &stage, &[]).await;
    assert_code(&report, 0);
    assert_says(&report, &["deployment/web does not exist (yet)"]);
}

#[tokio::test]
async fn what_is_forbidden_or_unreachable_ends_the_run_before_any_write() {
    for (outcome, code) in [(Outcome::NotAuthorised, 17), (Outcome::NoServer, 20)] {
        let (database, stage) = (old(2).await, Stage::with(|state| state.broken = Some(outcome)));
        let before = support::db_hash(&database).await;
        assert_code(&run(&database, &stage, &[]).await, code);
        assert_eq!(support::db_hash(&database).await, before);
    }
}

#[tokio::test]
async fn what_cannot_be_restored_is_named_with_the_command_and_the_next_run_does_it() {
    for outcome in [Outcome::NotAuthorised, Outcome::NoServer] {
        let (database, stage) = (old(2).await, Stage::with(|_| ()));
        *stage.last_words.lock().unwrap() =
            Some((database.clone(), doc! { "_id": "bad", "bad": true }));
        stage.on_look(move |state| {
            // the last look that is answered finds it stopped
            if state.scaled == [0] && state.broken.is_none() && state.looks >= 2 {
                state.broken = Some(outcome);
            }
        });
        let report = run(&database, &stage, &[]).await;
        assert_code(&report, 13);
        assert_says(
            &report,
            &["could not be restored: the stage is dark", "set deployment/web to 3"],
        );
        assert_says(&report, &["nothing was written", "\"not_restored\""]);
        assert_eq!((stage.state().replicas, remembered(&database).await), (0, web(3)));
        *stage.on_look.lock().unwrap() = None;
        stage.change(|state| state.broken = None);
        assert_code(&run(&database, &stage, &[]).await, 13);
        assert_eq!((stage.state().replicas, remembered(&database).await), (3, vec![]));
    }
}

#[tokio::test]
async fn a_run_whose_lock_was_taken_over_scales_nothing_more() {
    let (database, stage) = (old(2).await, Stage::with(|_| ()));
    let lock = database.clone();
    stage.change(|state| state.stuck = vec!["web-9".into()]);
    let (gate, set) = (gate(&stage), settings(&database, &[("GATE_LOCK_LEASE", "300ms")]));
    let taken_over = async {
        stage.stopped.notified().await;
        take_over(&lock).await;
    };
    let (report, ()) = tokio::join!(gate.run(&set), taken_over);
    assert_code(&report, 21);
    assert_eq!((stage.state().scaled, remembered(&database).await), (vec![0], web(3)));
}

#[tokio::test]
async fn a_run_whose_lock_was_taken_over_before_it_stops_anything_stops_nothing() {
    let (database, stage) = (old(2).await, Stage::with(|_| ()));
    *stage.thief.lock().unwrap() = Some((*database).clone());
    assert_code(&run(&database, &stage, &[]).await, 21);
    assert_eq!((stage.state().scaled, old_shaped(&database).await), (vec![], 2));
}

/// Not a test of its own: the process that the next one sends a signal to.
#[tokio::test]
#[ignore = "started by a_signal_after_stopping_restores"]
async fn stop_old_code_and_wait_for_a_signal() {
    let (database, stage) = (old(2).await, Stage::with(|state| state.stuck = vec!["web-9".into()]));
    let stopped = async {
        stage.stopped.notified().await;
        println!("\nstopped");
    };
    let (report, ()) = tokio::join!(run(&database, &stage, &[]), stopped);
    assert_code(&report, 22);
    assert_says(&report, &["nothing was written", "\"restored\""]);
    assert_eq!((stage.state().scaled, remembered(&database).await), (vec![0, 3], vec![]));
    assert_eq!((old_shaped(&database).await, apps::lock(&database).await), (2, None));
    println!("\nrestored");
}

#[tokio::test]
async fn a_signal_after_stopping_restores() {
    let mut tests = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "stop_old_code_and_wait_for_a_signal", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tests.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "stopped"));
    let kill = format!("kill -TERM {}", tests.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let rest: Vec<String> = lines.collect();
    assert!(tests.wait().unwrap().success(), "{rest:#?}");
    assert!(rest.iter().any(|line| line == "restored"), "{rest:#?}");
}

#[tokio::test]
async fn restoring_is_tried_again_while_nothing_answers() {
    let (database, stage) = (old(2).await, Stage::with(|_| ()));
    *stage.last_words.lock().unwrap() =
        Some((database.clone(), doc! { "_id": "bad", "bad": true }));
    stage.on_look(|state| {
        // of the looks for restoring, the first two
        let dark = state.scaled == [0] && (2..4).contains(&state.looks);
        state.broken = dark.then_some(Outcome::NoServer);
    });
    let report = run(&database, &stage, &[]).await;
    assert_code(&report, 13);
    assert_says(&report, &["\"restored\""]);
    assert_eq!((stage.state().scaled, remembered(&database).await), (vec![0, 3], vec![]));
}

#[tokio::test]
async fn a_call_that_takes_effect_after_the_run_gave_it_up_is_undone() {
    let (database, stage) = (old(2).await, Stage::with(|state| state.lost = true));
    stage.on_look(|state| {
        if state.looks == 4 {
            state.replicas = 0;
            state.scaled.push(0);
        }
    });
    let report = run(&database, &stage, &[("GATE_QUIESCE_TIMEOUT", "100ms")]).await;
    assert_code(&report, 20);
    assert_eq!((stage.state().scaled, remembered(&database).await), (vec![0, 3], vec![]));
}

#[tokio::test]
async fn what_a_killed_run_stopped_is_restored_by_one_that_is_refused_before_it_has_the_lock() {
    let (database, stage) = (old(2).await, Stage::with(|_| ()));
    killed_after_stopping(&database, &stage).await;
    stage.change(|state| state.refused = Some(Outcome::NotAuthorised));
    let report = run(&database, &stage, &[]).await;
    assert_code(&report, 17);
    assert_says(&report, &["nothing was written", "\"restored\""]);
    assert_eq!((stage.state().scaled, remembered(&database).await), (vec![0, 3], vec![]));
    assert_eq!(apps::lock(&database).await, None);
}

#[tokio::test]
async fn an_unrecorded_database_is_restored_as_one() {
    let stage = Stage::with(|_| ());
    let database = Server::shared().await.database().await;
    apps::fill(&database, "things", [doc! { "_id": 1, "a": 1 }]).await;
    *stage.last_words.lock().unwrap() =
        Some((database.clone(), doc! { "_id": "bad", "bad": true }));
    assert_code(&run(&database, &stage, &[("GATE_FROM_VERSION", "0.7.0")]).await, 13);
    assert_eq!((stage.state().scaled, remembered(&database).await), (vec![0, 3], vec![]));
    assert_eq!(apps::record(&database).await, doc! {});
}

#[tokio::test]
async fn what_is_remembered_does_not_make_a_database_look_occupied() {
    let stage = Stage::with(|_| ());
    let database = Server::shared().await.database().await;
    let entry = doc! { "_id": "scenario_schema_version.quiesced", "seq": 1_i64, "workloads": [] };
    database.collection(METADATA).insert_one(entry).await.unwrap();
    assert_code(&run(&database, &stage, &[("GATE_INITIALISE", "fresh")]).await, 0);
}

#[tokio::test]
async fn an_observer_is_told_the_story() {
    let (database, stage, ear) = (old(2).await, Stage::with(|_| ()), Arc::new(Ear::default()));
    let gate = gate(&stage).observer(ear.clone());
    let told = || -> Vec<(Occasion, Tone)> {
        ear.0.lock().unwrap().drain(..).map(|notice| (notice.reason, notice.tone)).collect()
    };
    apps::fill(&database, "things", [doc! { "_id": "bad", "bad": true }]).await;
    assert_code(&gate.run(&settings(&database, &[])).await, 13);
    assert_eq!(told(), [(Occasion::GateClosed, Tone::Warning)]);
    database.collection::<Document>("things").delete_one(doc! { "_id": "bad" }).await.unwrap();
    assert_code(&gate.run(&settings(&database, &[("GATE_RESUME", "true")])).await, 0);
    let story = [
        Occasion::UpgradeStarted,
        Occasion::Quiesced,
        Occasion::UpgradeApplied,
        Occasion::Resumed,
        Occasion::GateOpen,
    ];
    assert_eq!(told(), story.map(|occasion| (occasion, Tone::Normal)));
}

#[tokio::test]
async fn old_code_stays_stopped_while_a_commit_is_in_doubt() {
    let server = Server::three_members().await;
    let (database, stage) = (server.database().await, Stage::with(|_| ()));
    apps::record_old(&database).await;
    apps::fill(&database, "things", (0..5).map(|i| doc! { "_id": i, "a": i })).await;
    server.settled().await;
    let members = faults::Members::of(&server).await;
    let primary = members.primary().await.unwrap();
    let met = faults::disarm(primary).await.unwrap();
    let delay = doc! {
        "failCommands": ["commitTransaction"],
        "blockConnection": true,
        "blockTimeMS": 1000,
    };
    faults::arm(primary, "alwaysOn", delay).await.unwrap();
    let entered = doc! {
        "waitForFailPoint": "failCommand",
        "timesEntered": met + 1,
        "maxTimeMS": 60_000,
    };
    let unconfirmed = async {
        primary.run_command(entered).await.unwrap();
        members.replicate(false).await;
        faults::disarm(primary).await.unwrap();
    };
    let lease = [("GATE_LOCK_LEASE", "3s")];
    let (report, ()) = tokio::join!(run(&database, &stage, &lease), unconfirmed);
    assert_code(&report, 20);
    assert_eq!(report.in_doubt.as_deref(), Some("0.8.0"), "{}", report.to_json());
    assert_says(&report, &["in doubt", "left at 0 replicas", "\"stopped\""]);
    assert_eq!(stage.state().scaled, [0], "{}", report.to_json());
    members.replicate(true).await;
    members.heal().await;
    server.settled().await;
    let report = run(&database, &stage, &lease).await;
    assert_code(&report, 0);
    assert_eq!((stage.state().replicas, stage.state().scaled), (0, vec![0]));
    assert_eq!(old_shaped(&database).await, 0);
    assert_eq!(remembered(&database).await, web(3));
}
