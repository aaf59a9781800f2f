//! The campaign: many runners at once, killed, paused and terminated at random, on servers that fail in
//! every way they can, with users beside; afterwards everything must be there exactly once.
//!
//! `CHAOS_SECONDS`, `CHAOS_ROUNDS` and `CHAOS_KILLS` say how much is enough, whichever comes first; half a
//! minute where none is given. Everything that is chosen follows from `CHAOS_SEED`, although no two rounds
//! of one seed have the same pace. Every round has its own seed, the next number, so that
//! `CHAOS_SEED=<that of the round> CHAOS_ROUNDS=1` runs it alone.

mod apps;
mod support;

#[path = "chaos/faults.rs"]
mod faults;
#[path = "chaos/nuisance.rs"]
mod nuisance;
#[path = "chaos/plan.rs"]
mod plan;
#[path = "chaos/runners.rs"]
mod runners;
#[path = "chaos/users.rs"]
mod users;
#[path = "chaos/verdict.rs"]
mod verdict;

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use mongodb::options::{Acknowledgment, DatabaseOptions, WriteConcern};
use nuisance::Counts;
use plan::{Kind, Plan};
use runners::Runners;
use support::Server;

/// After so many rounds with violations there is enough to look at.
const ENOUGH: usize = 3;

/// How long the slice among the other tests takes, in seconds, and its seed.
const SLICE: u64 = 25;
const SLICE_SEED: u64 = 20_261_123;

/// How many violations of a round are told.
const SHOWN: usize = 10;

/// What all rounds together did and found.
#[derive(Default)]
struct Tally {
    rounds: u64,
    done: Counts,
    faults: Counts,
    acknowledged: usize,
    violations: usize,
    /// The rounds with violations, with the first of them.
    failures: Vec<String>,
}

impl Tally {
    fn kills(&self) -> u64 {
        self.done.get("kills").copied().unwrap_or_default()
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

#[tokio::test]
async fn applies_everything_exactly_once_whatever_happens() {
    let (rounds, kills) = (number("CHAOS_ROUNDS"), number("CHAOS_KILLS"));
    let time = number("CHAOS_SECONDS");
    // among the other tests a short slice, the same one every time
    let slice = time.or(rounds).or(kills).is_none();
    let time = time.or(slice.then_some(SLICE)).map(Duration::from_secs);
    let seed = number("CHAOS_SEED").unwrap_or_else(|| match slice {
        true => SLICE_SEED,
        false => fastrand::u64(..1_000_000_000),
    });
    println!("chaos: CHAOS_SEED={seed}");

    let began = Instant::now();
    let (mut servers, mut tally) = (HashMap::new(), Tally::default());
    while time.is_none_or(|time| began.elapsed() < time)
        && rounds.is_none_or(|rounds| tally.rounds < rounds)
        && kills.is_none_or(|kills| tally.kills() < kills)
        && tally.failures.len() < ENOUGH
    {
        let plan = Plan::new(seed + tally.rounds);
        let server = match servers.entry(plan.kind) {
            Entry::Occupied(started) => started.into_mut(),
            Entry::Vacant(missing) => missing.insert(match plan.kind {
                Kind::ThreeMembers => Server::three_members().await,
                Kind::OneMember => Server::replica_set().await,
                Kind::Standalone => Server::standalone().await,
            }),
        };
        round(&plan, server, &mut tally).await;
    }

    let Tally { rounds, done, faults, acknowledged, violations, failures } = &tally;
    let total: u64 = faults.values().sum();
    println!("chaos: {rounds} rounds in {:?}: {done:?}", began.elapsed());
    println!("chaos: {total} faults: {faults:?}");
    println!("chaos: {acknowledged} acknowledged writes of users");
    println!("chaos: {violations} violations, CHAOS_SEED={seed}");
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// One round, from a fresh database to the verdict on it.
async fn round(plan: &Plan, server: &Server, tally: &mut Tally) {
    let database = server.database().await;
    verdict::begin(plan, &database).await;
    let (disturbed, finished) = (Cell::new(false), Cell::new(false));
    let mut runners = Runners::new(plan, &database);
    // what a server has acknowledged must be there after it was killed, on a standalone too
    let durable = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build();
    let durable = DatabaseOptions::builder().write_concern(durable).build();
    let users = database.client().database_with_options(database.name(), durable);
    let beside = async {
        tokio::join!(
            users::count(plan, &users, &finished),
            users::edit(plan, &users, &finished),
            users::write_old(plan, &users, &finished),
        )
    };
    let gates = async {
        let ((), faults, failovers) = tokio::join!(
            runners.disturb(&disturbed),
            nuisance::inject(plan, server, &disturbed),
            nuisance::fail_over(plan, server, &disturbed),
        );
        faults::Members::of(server).await.heal().await;
        runners.rest().await;
        let last = runners::gate(plan, &database).run().await;
        finished.set(true);
        (faults, failovers, last)
    };
    let ((counting, editing, old), (faults, failovers, last)) = tokio::join!(beside, gates);

    let mut violations = std::mem::take(&mut runners.violations);
    if last.code != Some(0) {
        violations.push(format!("the undisturbed run at the end: {last}"));
    }
    violations.extend(verdict::verdict(plan, &database).await);
    tally.acknowledged += counting.acknowledged + editing.acknowledged + old.acknowledged;
    let of = async |name| verdict::documents(&database, name).await;
    violations.extend(counting.verify(&of("counters").await, "log"));
    violations.extend(editing.verify(&of("things").await, "list"));
    violations.extend(old.verify(&[of("old").await, of("new").await].concat(), "log"));
    mongodb::Database::drop(&database).await.unwrap();

    tally.rounds += 1;
    add(&mut tally.done, &runners.done);
    add(&mut tally.done, &failovers);
    add(&mut tally.faults, &faults);
    println!(
        "chaos: round {} (seed {}, {:?}, {}): {:?} {failovers:?}, {} violations",
        tally.rounds,
        plan.seed,
        plan.kind,
        plan.upgrades(),
        runners.done,
        violations.len()
    );
    if !violations.is_empty() {
        tally.violations += violations.len();
        violations.truncate(SHOWN);
        let told = violations.join("\n");
        tally.failures.push(format!("CHAOS_SEED={}: {plan:#?}\n{told}", plan.seed));
    }
}

fn add(sum: &mut Counts, part: &Counts) {
    for (what, times) in part {
        *sum.entry(what).or_default() += times;
    }
}
