//! The runners of a round, and what is done to them.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use fastrand::Rng;
use mongodb::bson::{Document, doc};
use mongodb::options::ReadConcern;
use mongodb::{Collection, Database};
use tokio::task::{JoinHandle, JoinSet};

use super::nuisance::Counts;
use super::plan::{Kind, Plan};
use super::users::recorded;
use crate::support::{Fresh, Gate, Run, eventually};

/// How many log lines of a runner a violation shows.
const SHOWN: usize = 12;

/// A gate for the round's chain of upgrades.
pub fn gate(plan: &Plan, database: &Fresh) -> Gate {
    let binary = std::env::current_exe().unwrap();
    let binary: PathBuf = binary.ancestors().nth(2).unwrap().join("examples/scenario");
    Gate::new(binary)
        .uri(&database.uri)
        .set("SCENARIO_CODE", plan.code())
        .set("SCENARIO_UPGRADES", plan.upgrades())
        .set("GATE_FROM_VERSION", "0.0.1")
        .set("GATE_LOCK_LEASE", format!("{}ms", plan.lease.as_millis()))
        .set("GATE_BATCH_DOCUMENTS", plan.batch_documents.to_string())
        .set("GATE_CONNECT_TIMEOUT", "5s")
        .set("GATE_LOCK_WAIT", "20s")
        .set("GATE_TIMEOUT", "30s")
}

/// A runner, and what was done to it.
struct Runner {
    /// Its host, by which the lock names it.
    name: String,
    mode: &'static str,
    pid: u32,
    ended: JoinHandle<Run>,
    killed: bool,
    terminated: bool,
    /// When it may go on.
    stopped: Option<Instant>,
}

impl Runner {
    fn start(gate: &Gate, number: u64, mode: &'static str) -> Runner {
        let name = format!("runner-{number}");
        let running = gate.clone().mode(mode).set("HOSTNAME", &name).spawn();
        let pid = running.pid();
        let ended = tokio::spawn(running.wait());
        Runner { name, mode, pid, ended, killed: false, terminated: false, stopped: None }
    }

    /// Sends a signal, unless it has ended. Its pid is its own until the task that waits for it has
    /// ended, and tasks of one thread do not end in between.
    fn signal(&self, name: &str) -> bool {
        !self.ended.is_finished()
            && Command::new("kill")
                .args([format!("-{name}"), self.pid.to_string()])
                .status()
                .is_ok()
    }

    /// What it should not have ended with.
    fn violation(&self, run: &Run, code: &str) -> Option<String> {
        let allowed = match run.code {
            // it came before the run could listen for it
            None if run.signal == Some(15) => self.terminated && run.log.len() < 2,
            None => self.killed && run.signal == Some(9),
            Some(0) => run.report["to"] == code,
            Some(10) => self.mode != "upgrade",
            Some(20 | 21) => true,
            Some(22) => self.terminated,
            Some(_) => false,
        };
        (!allowed).then(|| self.tell("ended as it must not", run))
    }

    fn tell(&self, what: &str, run: &Run) -> String {
        let Runner { name, mode, .. } = self;
        let lines: Vec<&str> = run.stderr.lines().collect();
        let lines = lines[lines.len().saturating_sub(SHOWN)..].join("\n  ");
        format!(
            "{name} ({mode}) {what}: {:?}\n  {}\n  {lines}",
            run.code.or(run.signal),
            run.stdout.trim()
        )
    }
}

/// The runners of a round.
pub struct Runners<'a> {
    plan: &'a Plan,
    database: &'a Fresh,
    gate: Gate,
    rng: Rng,
    all: Vec<Runner>,
    checks: JoinSet<Option<String>>,
    pub done: Counts,
    pub violations: Vec<String>,
}

impl<'a> Runners<'a> {
    pub fn new(plan: &'a Plan, database: &'a Fresh) -> Runners<'a> {
        Runners {
            plan,
            database,
            gate: gate(plan, database),
            rng: plan.rng(6),
            all: vec![],
            checks: JoinSet::new(),
            done: Counts::new(),
            violations: vec![],
        }
    }

    /// Starts, stops and ends runners until the gate is open, or the time is over.
    pub async fn disturb(&mut self, over: &Cell<bool>) {
        let began = Instant::now();
        let mut open = false;
        while !open && began.elapsed() < self.plan.time {
            self.collect().await;
            self.wake(false);
            while self.all.len() < self.plan.runners {
                self.start();
            }
            match self.rng.u8(..10) {
                0..4 => self.kill().await,
                4 | 5 => self.stop().await,
                6 => self.terminate(),
                _ => {}
            }
            let pause = 5.0 * 60f64.powf(self.rng.f64());
            tokio::time::sleep(Duration::from_millis(pause as u64)).await;
            if self.rng.u8(..4) == 0 {
                let version = tokio::time::timeout(Duration::from_secs(1), recorded(self.database));
                open = version.await.ok().flatten() == Some(self.plan.code());
            }
        }
        over.set(true);
    }

    /// Lets every runner go on to its end.
    pub async fn rest(&mut self) {
        while !self.all.is_empty() {
            self.wake(true);
            self.collect().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        while let Some(checked) = self.checks.join_next().await {
            self.violations.extend(checked.unwrap());
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    fn start(&mut self) {
        let mode = match self.rng.u8(..10) {
            0 => "check",
            1 | 2 => "wait",
            _ => "upgrade",
        };
        self.count("runners");
        self.all.push(Runner::start(&self.gate, self.done["runners"], mode));
    }

    /// Which runner is next to suffer: more often than not the one that has the lock.
    async fn victim(&mut self) -> usize {
        if self.rng.u8(..3) > 0 {
            let metadata: Collection<Document> = self.database.collection("database_metadata");
            let lock = metadata.find_one(doc! { "_id": "upgrade_lock" });
            if let Ok(Ok(Some(lock))) = tokio::time::timeout(Duration::from_millis(200), lock).await
                && let Some(holder) =
                    self.all.iter().position(|r| lock.get_str("host").is_ok_and(|h| h == r.name))
            {
                return holder;
            }
        }
        self.rng.usize(..self.all.len())
    }

    async fn kill(&mut self) {
        let victim = self.victim().await;
        if self.all[victim].signal("KILL") {
            self.all[victim].killed = true;
            self.count("kills");
        }
    }

    /// For longer than a lease, most times.
    async fn stop(&mut self) {
        let victim = self.victim().await;
        if self.all[victim].stopped.is_none() && self.all[victim].signal("STOP") {
            let time = self.plan.lease.mul_f64(0.5 + 2.0 * self.rng.f64());
            self.all[victim].stopped = Some(Instant::now() + time);
            self.count("stops");
        }
    }

    fn terminate(&mut self) {
        let victim = self.rng.usize(..self.all.len());
        if self.all[victim].signal("TERM") {
            self.all[victim].terminated = true;
            self.count("terminations");
        }
    }

    /// Wakes those whose time is over, or all.
    fn wake(&mut self, all: bool) {
        for runner in &mut self.all {
            if runner.stopped.is_some_and(|until| all || Instant::now() >= until) {
                runner.signal("CONT");
                runner.stopped = None;
            }
        }
    }

    /// Takes in what the runners that have ended left.
    async fn collect(&mut self) {
        let (ended, running) = self.all.drain(..).partition(|runner| runner.ended.is_finished());
        self.all = running;
        let ended: Vec<Runner> = ended;
        for mut runner in ended {
            match (&mut runner.ended).await {
                Ok(run) => {
                    self.count(match run.code {
                        Some(0) => "exit 0",
                        Some(10) => "exit 10",
                        Some(20) => "exit 20",
                        Some(21) => "exit 21",
                        Some(22) => "exit 22",
                        _ => "no exit",
                    });
                    self.violations.extend(runner.violation(&run, &self.plan.code()));
                    if run.code == Some(0) {
                        self.check_open(&runner, &run);
                    }
                }
                Err(error) => self.violations.push(format!("{}: {error}", runner.name)),
            }
        }
    }

    /// Makes sure that the version was recorded when a runner opened the gate. What was read by then is
    /// at least what is read now, from a primary that knows that it is the only one.
    fn check_open(&mut self, runner: &Runner, run: &Run) {
        let told = runner.tell("opened the gate too early", run);
        let (database, code) = (Database::clone(self.database), self.plan.code());
        let concern = match self.plan.kind {
            Kind::Standalone => ReadConcern::local(),
            _ => ReadConcern::linearizable(),
        };
        self.checks.spawn(async move {
            let metadata: Collection<Document> = database.collection("database_metadata");
            let record = eventually("the record", || async {
                let record = metadata
                    .find_one(doc! { "_id": "scenario_schema_version" })
                    .read_concern(concern.clone())
                    .max_time(Duration::from_secs(5));
                record.await.ok()
            });
            let version = record.await.unwrap_or_default();
            (version.get_str("version").ok() != Some(&code)).then_some(told)
        });
    }
}
