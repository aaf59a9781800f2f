//! The runners of a round, and what is done to them.

use std::cell::Cell;
use std::process::Command;
use std::time::{Duration, Instant};

use fastrand::Rng;
use mongodb::Collection;
use mongodb::bson::{Document, doc};
use mongodb::options::ReadConcern;
use tokio::task::{JoinHandle, JoinSet};

use super::nuisance::Counts;
use super::plan::{Kind, Plan};
use super::users::recorded;
use crate::apps::{METADATA, scenario};
use crate::support::{Fresh, Gate, Run, eventually};

/// How many log lines of a runner a violation shows.
const SHOWN: usize = 12;

/// A gate for the round's chain of upgrades.
pub fn gate(plan: &Plan, database: &Fresh) -> Gate {
    scenario(&database.uri, &plan.code(), &plan.upgrades())
        .set("SCENARIO_PROGRAM", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chaos/move_field.py"))
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
    /// Sends a signal, unless it has ended. Its pid is its own until the task that waits for it has
    /// ended, and no task of this thread ends in between.
    fn signal(&self, name: &str) -> bool {
        let mut kill = Command::new("kill");
        kill.args([format!("-{name}"), self.pid.to_string()]);
        !self.ended.is_finished() && kill.status().is_ok_and(|status| status.success())
    }

    /// Whether it may end like this, after what was done to it and its servers.
    fn may_end(&self, run: &Run, code: &str) -> bool {
        match (run.code, run.signal) {
            (Some(0), _) => run.report["to"] == code,
            (Some(10), _) => self.mode != "upgrade",
            (Some(20 | 21), _) => true,
            (Some(22), _) => self.terminated,
            (_, Some(9)) => self.killed,
            // it came before the run could listen for it
            (_, Some(15)) => self.terminated && run.log.len() < 2,
            _ => false,
        }
    }

    fn tell(&self, what: &str, run: &Run) -> String {
        let lines: Vec<&str> = run.stderr.lines().collect();
        let last = lines[lines.len().saturating_sub(SHOWN)..].join("\n  ");
        let Run { code, signal, stdout, .. } = run;
        format!("{} ({}) {what}: {code:?} {signal:?} {stdout}  {last}", self.name, self.mode)
    }
}

/// All runners of a round.
pub struct Runners<'a> {
    plan: &'a Plan,
    database: &'a Fresh,
    gate: Gate,
    rng: Rng,
    running: Vec<Runner>,
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
            running: vec![],
            checks: JoinSet::new(),
            done: Counts::new(),
            violations: vec![],
        }
    }

    /// Starts runners and disturbs them until the gate is open, or the time is over.
    pub async fn disturb(&mut self, over: &Cell<bool>) {
        let began = Instant::now();
        let mut open = false;
        while !open && began.elapsed() < self.plan.time {
            self.collect().await;
            self.wake(false);
            while self.running.len() < self.plan.runners {
                self.start();
            }
            match self.rng.u8(..10) {
                0..4 => self.kill().await,
                4 | 5 => self.stop().await,
                6 => self.terminate(),
                7 => self.take_lock().await,
                _ => {}
            }
            let pause = 5.0 * 60f64.powf(self.rng.f64());
            tokio::time::sleep(Duration::from_millis(pause as u64)).await;
            if self.rng.u8(..4) == 0 {
                open = soon(recorded(self.database)).await.flatten() == Some(self.plan.code());
            }
        }
        over.set(true);
    }

    /// Lets every runner go on to its end.
    pub async fn rest(&mut self) {
        while !self.running.is_empty() {
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
        self.count("runners");
        let name = format!("runner-{}", self.done["runners"]);
        let mode = match self.rng.u8(..10) {
            0 => "check",
            1 | 2 => "wait",
            _ => "upgrade",
        };
        let process = self.gate.clone().mode(mode).set("HOSTNAME", &name).spawn();
        let (pid, ended) = (process.pid(), tokio::spawn(process.wait()));
        let (killed, terminated, stopped) = (false, false, None);
        self.running.push(Runner { name, mode, pid, ended, killed, terminated, stopped });
    }

    fn locks(&self) -> Collection<Document> {
        self.database.collection(METADATA)
    }

    /// Which runner is next to suffer: more often than not the one that has the lock.
    async fn victim(&mut self) -> usize {
        if self.rng.u8(..3) > 0
            && let lock = self.locks().find_one(doc! { "_id": "upgrade_lock" })
            && let Some(Ok(Some(lock))) = soon(lock.into_future()).await
            && let Ok(host) = lock.get_str("host")
            && let Some(holder) = self.running.iter().position(|runner| runner.name == host)
        {
            return holder;
        }
        self.rng.usize(..self.running.len())
    }

    async fn kill(&mut self) {
        let victim = self.victim().await;
        if self.running[victim].signal("KILL") {
            self.running[victim].killed = true;
            self.count("kills");
        }
    }

    /// For longer than a lease, most times.
    async fn stop(&mut self) {
        let victim = self.victim().await;
        if self.running[victim].stopped.is_none() && self.running[victim].signal("STOP") {
            let time = self.plan.lease.mul_f64(0.5 + 2.0 * self.rng.f64());
            self.running[victim].stopped = Some(Instant::now() + time);
            self.count("stops");
        }
    }

    fn terminate(&mut self) {
        let victim = self.rng.usize(..self.running.len());
        if self.running[victim].signal("TERM") {
            self.running[victim].terminated = true;
            self.count("terminations");
        }
    }

    /// The lock only saves duplicate work: without it, two runs are at it until one notices.
    async fn take_lock(&mut self) {
        let locks = self.locks();
        let taken = locks.delete_one(doc! { "_id": "upgrade_lock" });
        if let Some(Ok(taken)) = soon(taken.into_future()).await
            && taken.deleted_count == 1
        {
            self.count("locks taken away");
        }
    }

    /// Wakes those whose time is over, or all.
    fn wake(&mut self, all: bool) {
        for runner in &mut self.running {
            if runner.stopped.is_some_and(|until| all || Instant::now() >= until) {
                runner.signal("CONT");
                runner.stopped = None;
            }
        }
    }

    /// Takes in what the runners that have ended left.
    async fn collect(&mut self) {
        let ended = self.running.extract_if(.., |runner| runner.ended.is_finished());
        for mut runner in ended.collect::<Vec<_>>() {
            let run = match (&mut runner.ended).await {
                Ok(run) => run,
                Err(error) => {
                    self.violations.push(format!("{} did not end: {error}", runner.name));
                    continue;
                }
            };
            self.count(match run.code {
                Some(0) => "exit 0",
                Some(10) => "exit 10",
                Some(20) => "exit 20",
                Some(21) => "exit 21",
                Some(22) => "exit 22",
                _ => "no exit",
            });
            if !runner.may_end(&run, &self.plan.code()) {
                self.violations.push(runner.tell("may not end like this", &run));
            } else if run.code == Some(0) {
                self.check_open(runner.tell("opened the gate too early", &run));
            }
        }
    }

    /// Makes sure that the code version is recorded: it must have been when a runner opened the gate,
    /// and a primary tells that knows itself to be the only one.
    fn check_open(&mut self, otherwise: String) {
        let (records, code) = (self.locks(), self.plan.code());
        let concern = match self.plan.kind {
            Kind::Standalone => ReadConcern::local(),
            _ => ReadConcern::linearizable(),
        };
        self.checks.spawn(async move {
            let record = eventually("the record", || async {
                let record = records.find_one(doc! { "_id": "scenario_schema_version" });
                let limited = record.read_concern(concern.clone()).max_time(Duration::from_secs(5));
                limited.await.ok()
            });
            let version = record.await.unwrap_or_default();
            (version.get_str("version").ok() != Some(&code)).then_some(otherwise)
        });
    }
}

/// What a server says that may be frozen.
async fn soon<T>(answer: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(1), answer).await.ok()
}
