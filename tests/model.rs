//! The gate's protocol of lock, fence, journal and crash, in every interleaving, by stateright.
//!
//! The engine has weaker twins, and for each a test that expects the counterexample. Assumed of
//! MongoDB: what is read is majority-committed, updates and commits are atomic, and of two
//! overlapping transactions that write one document only one commits. Beyond that the model allows
//! more than an engine can meet:
//!
//! - A commit in flight may arrive at any later time. One that is lost is one that does not arrive,
//!   and a run that is paused, or dead and not replaced, is one that takes no further step.
//! - A lease may expire at any time: the server's clock matters in no other way, and has no bound.

use stateright::{Checker, HasDiscoveries, Model, Property};
use std::time::Instant;

const RUNNERS: usize = 3;
const BATCHES: usize = 2;
/// How many processes that died or stopped are replaced by new ones.
const REPLACED: usize = 1;

/// The engine, and its twins.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gate {
    Engine,
    /// Every run acts as if it held the lock: whatever a lock may do wrong is among this.
    WithoutLock,
    /// Transactions write the record whatever it says, and so still conflict with each other.
    WithoutFence,
    /// After an unknown commit the transaction is sent again, fenced by the journal's id only.
    RetriesBlindly,
    /// An unknown commit is taken for done, and the next one fenced by the journal's id only.
    GoesOnBlindly,
    /// An unknown commit that finishes the upgrade is taken for done, without reading back.
    OpensBlindly,
}

type RunId = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Version {
    Old,
    Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Record {
    version: Version,
    history: u8,
    /// The run id in the newest history entry.
    upgraded_by: Option<RunId>,
    journal: Option<Journal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Journal {
    id: RunId,
    seq: u8,
    writer: RunId,
    next_batch: u8,
}

/// A transaction that found the record as its run knew it, and whose commit is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Commit {
    run: RunId,
    record: Record,
    applies: [u8; BATCHES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase {
    Looking,
    Acquiring,
    Reading,
    /// Knows the record that it goes on from.
    Ready(Record),
    /// Sent what goes on from that record, and has no answer.
    Waiting(Record, Size),
    Releasing,
    ReadingBack,
    Open,
    Stopped,
}

/// Whether a run finds the work fit for one transaction. The limit is a setting, so two runs may
/// disagree: every run may do either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Size {
    Small,
    Large,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Run {
    phase: Phase,
    /// Whether its report says that it was this run that upgraded the database.
    claims: bool,
    id: RunId,
}

#[derive(Clone, Debug, PartialEq, Hash)]
struct State {
    record: Record,
    holder: Option<RunId>,
    lease_is_live: bool,
    /// How often each batch of the upgrade, which is not idempotent, was applied.
    applied: [u8; BATCHES],
    in_flight: Vec<Commit>,
    runs: [Run; RUNNERS],
    /// How many processes and journals there have been: what no run can see.
    processes: usize,
    journals: u8,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Take(usize, Step),
    /// The server commits.
    Deliver(Commit, Answer),
    /// Server time passes the end of the lease.
    Expire,
    /// A process dies, wherever it was, or had stopped, and a new one starts in its place.
    Replace(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    /// Reads record and lock in one query.
    Look,
    /// Updates the lock, atomically and by server time; after a lost answer, once more.
    Acquire(Answer),
    /// Reads the record under the lock, and after a transaction that failed or is in doubt.
    Read,
    /// Begins a transaction by writing the record, which is its fence, and sends the commit.
    Send(Size),
    /// Hears of a write conflict, or hears nothing in time.
    GiveUp,
    /// Renews the lease, in the background, or finds that another has it.
    Renew,
    /// Gives up the lock. Here a lost answer is a lost request: the lease must run out.
    Release(Answer),
    /// Reads the record for the last time.
    ReadBack,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Arrives,
    Lost,
}

impl Record {
    /// What a transaction's write to the record has in its filter.
    fn fence(self, gate: Gate) -> impl PartialEq {
        let journal = self.journal.map(|journal| match gate {
            Gate::RetriesBlindly | Gate::GoesOnBlindly => (journal.id, 0),
            _ => (journal.id, journal.seq),
        });
        (gate != Gate::WithoutFence).then_some((self.version, self.history, journal))
    }

    fn ids(&mut self) -> impl Iterator<Item = &mut RunId> {
        let journal = self.journal.iter_mut();
        let ids = journal.flat_map(|journal| [&mut journal.id, &mut journal.writer]);
        self.upgraded_by.iter_mut().chain(ids)
    }
}

impl Commit {
    /// The transaction that goes on from the record as the run knows it.
    fn after(known: Record, run: RunId, size: Size) -> Commit {
        let (version, history) = (Version::Target, known.history + 1);
        let finished = Record { version, history, upgraded_by: Some(run), journal: None };
        let going_on = |journal| Record { journal: Some(journal), ..known };
        let (record, applies) = match (known.journal, size) {
            (None, Size::Small) => (finished, [1; BATCHES]),
            (None, Size::Large) => {
                let journal = Journal { id: run, seq: 0, writer: run, next_batch: 0 };
                (going_on(journal), [0; BATCHES])
            }
            (Some(journal), _) => {
                let (seq, next_batch) = (journal.seq + 1, journal.next_batch + 1);
                let moved = Journal { seq, next_batch, writer: run, ..journal };
                let last = usize::from(next_batch) == BATCHES;
                let mut applies = [0; BATCHES];
                applies[usize::from(journal.next_batch)] = 1;
                (if last { finished } else { going_on(moved) }, applies)
            }
        };
        Commit { run, record, applies }
    }
}

impl Run {
    /// The commit that it waits for.
    fn sent(&self) -> Option<Commit> {
        match self.phase {
            Phase::Waiting(known, size) => Some(Commit::after(known, self.id, size)),
            _ => None,
        }
    }

    /// What it may do; left alone, it does the first that changes anything.
    fn steps(&self) -> &'static [Step] {
        use {Answer::*, Size::*, Step::*};
        match self.phase {
            Phase::Looking => &[Look],
            Phase::Acquiring => &[Acquire(Arrives), Acquire(Lost)],
            Phase::Reading => &[Renew, Read],
            Phase::Ready(_) => &[Renew, Send(Large), Send(Small)],
            Phase::Waiting(..) => &[Renew, GiveUp],
            Phase::Releasing => &[Renew, Release(Arrives), Release(Lost)],
            Phase::ReadingBack => &[ReadBack],
            Phase::Open | Phase::Stopped => &[],
        }
    }

    /// What it does next, having learnt what the record is now.
    fn learn(&mut self, record: Record) -> Phase {
        self.claims = record.upgraded_by == Some(self.id);
        match record.version {
            Version::Old => Phase::Ready(record),
            Version::Target => Phase::Releasing,
        }
    }
}

impl State {
    fn take(mut self, gate: Gate, slot: usize, step: Step) -> Option<State> {
        use {Answer::*, Phase::*, Step::*};
        let found = self.record;
        let run = &mut self.runs[slot];
        let id = run.id;
        let (own, live) = (self.holder == Some(id), self.lease_is_live);
        run.phase = match (step, run.phase) {
            (Look, Looking) if live && !own => return None,
            (Look, Looking) if found.version == Version::Target => Open,
            (Look, Looking) if gate == Gate::WithoutLock => Reading,
            (Look, Looking) => Acquiring,
            (Acquire(_), Acquiring) if live && !own => Looking,
            (Acquire(answer), Acquiring) => {
                (self.holder, self.lease_is_live) = (Some(id), true);
                if answer == Arrives { Reading } else { Acquiring }
            }
            (Read, Reading) => run.learn(found),
            (Send(size), Ready(known)) if known.fence(gate) == found.fence(gate) => {
                self.in_flight.push(Commit::after(known, id, size));
                Waiting(known, size)
            }
            (Send(_), Ready(_)) => Reading,
            (GiveUp, Waiting(known, size)) => {
                let sent = Commit::after(known, id, size).record;
                match gate {
                    Gate::RetriesBlindly => Ready(known),
                    Gate::GoesOnBlindly => run.learn(sent),
                    Gate::OpensBlindly if sent.version == Version::Target => Open,
                    _ => Reading,
                }
            }
            (Renew, _) if gate == Gate::WithoutLock || own && live => return None,
            (Renew, phase) if own => {
                self.lease_is_live = true;
                phase
            }
            (Renew, _) => Stopped,
            (Release(answer), Releasing) => {
                if own && answer == Arrives {
                    (self.holder, self.lease_is_live) = (None, false);
                }
                ReadingBack
            }
            (ReadBack, ReadingBack) if found.version == Version::Target => Open,
            (ReadBack, ReadingBack) => Looking,
            _ => return None,
        };
        Some(self)
    }

    /// Every transaction writes the record, so the first that commits is a write conflict for
    /// all others: what else is in flight can no longer succeed.
    fn deliver(mut self, commit: Commit, answer: Answer) -> Option<State> {
        if answer == Answer::Arrives {
            let mut runs = self.runs.iter_mut();
            let run = runs.find(|run| run.sent() == Some(commit))?;
            run.phase = run.learn(commit.record);
        }
        self.in_flight.clear();
        self.record = commit.record;
        self.journals += u8::from(commit.record.journal.is_some_and(|journal| journal.seq == 0));
        for (times, more) in self.applied.iter_mut().zip(commit.applies) {
            *times += more;
        }
        Some(self)
    }

    /// Runs are alike, and run ids are only ever compared: states that differ in the order of
    /// the runs or in their names are one. (stateright's `symmetry` is ignored by `spawn_bfs`.)
    fn canonical(mut self) -> State {
        self.runs.sort();
        let mut ids: Vec<&mut RunId> = self.record.ids().collect();
        ids.extend(&mut self.holder);
        for run in &mut self.runs {
            ids.push(&mut run.id);
            if let Phase::Ready(known) | Phase::Waiting(known, _) = &mut run.phase {
                ids.extend(known.ids());
            }
        }
        for commit in &mut self.in_flight {
            ids.push(&mut commit.run);
            ids.extend(commit.record.ids());
        }
        let mut names = Vec::new();
        for id in ids {
            let name = names.iter().position(|name| name == id).unwrap_or(names.len());
            names.extend((name == names.len()).then_some(*id));
            *id = name as RunId;
        }
        self.in_flight.sort();
        self.in_flight.dedup();
        self
    }
}

impl Gate {
    fn step(&self, state: &State, action: Action) -> Option<State> {
        let mut state = state.clone();
        match action {
            Action::Take(slot, step) => return state.take(*self, slot, step),
            Action::Deliver(commit, answer) => return state.deliver(commit, answer),
            Action::Expire if state.lease_is_live => state.lease_is_live = false,
            Action::Expire => return None,
            Action::Replace(slot) => {
                let id = state.processes as RunId;
                state.runs[slot] = Run { phase: Phase::Looking, claims: false, id };
                state.processes += 1;
            }
        }
        Some(state)
    }

    /// Whether this run opens, given time, whatever the others left behind and while they do
    /// nothing. Where it stopped, its Job starts it again.
    fn opens_alone(&self, mut state: State, slot: usize) -> bool {
        for _ in 0..30 {
            let Run { phase, id, .. } = state.runs[slot];
            if phase == Phase::Open {
                return true;
            }
            let own = state.in_flight.iter().filter(|commit| commit.run == id);
            let answers = own.map(|commit| Action::Deliver(*commit, Answer::Arrives));
            let steps = state.runs[slot].steps().iter().map(|step| Action::Take(slot, *step));
            let last = [Action::Expire, Action::Replace(slot)];
            let mut actions = answers.chain(steps).chain(last);
            let Some(next) = actions.find_map(|action| self.step(&state, action)) else { break };
            state = next;
        }
        false
    }
}

impl Model for Gate {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let run = |slot| Run { phase: Phase::Looking, claims: false, id: slot as RunId };
        vec![State {
            record: Record { version: Version::Old, history: 0, upgraded_by: None, journal: None },
            holder: None,
            lease_is_live: false,
            applied: [0; BATCHES],
            in_flight: Vec::new(),
            runs: std::array::from_fn(run),
            processes: RUNNERS,
            journals: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Expire);
        for (slot, run) in state.runs.iter().enumerate() {
            actions.extend(run.steps().iter().map(|step| Action::Take(slot, *step)));
            if state.processes < RUNNERS + REPLACED && run.phase != Phase::Open {
                actions.push(Action::Replace(slot));
            }
        }
        for commit in &state.in_flight {
            actions.push(Action::Deliver(*commit, Answer::Arrives));
            actions.push(Action::Deliver(*commit, Answer::Lost));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.step(state, action).map(State::canonical)
    }

    /// A twin may go on applying for ever; twice is enough to see.
    fn within_boundary(&self, state: &State) -> bool {
        state.applied.iter().all(|times| *times <= 2)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let (always, sometimes) = (Property::<Self>::always, Property::<Self>::sometimes);
        vec![
            always("never applied twice", |_, s| s.applied.iter().all(|times| *times <= 1)),
            always("never skipped", |_, s| {
                s.record.version == Version::Old || s.applied.iter().all(|times| *times >= 1)
            }),
            always("never open while unfinished", |_, s| {
                s.record.version == Version::Target
                    || s.runs.iter().all(|run| run.phase != Phase::Open)
            }),
            always("never two journals", |_, s| s.journals <= 1),
            always("never a journal beside the version that it led to", |_, s| {
                s.record.version == Version::Old || s.record.journal.is_none()
            }),
            always("never claimed by two", |_, s| {
                s.runs.iter().filter(|run| run.claims).count() <= 1
            }),
            // "Eventually open if somebody keeps running." stateright's `eventually` cannot
            // say it: it overlooks a path that ends in a cycle, and where two paths join it
            // keeps what only one of them has seen; a lease that expires and is renewed makes
            // both. This says more: no state is a trap for anyone. Nor can runs fail each
            // other for ever: a fence or commit fails only where another commit moved the
            // record, and it moves BATCHES + 1 times at most.
            always("whoever keeps running opens", |gate, s| {
                (0..RUNNERS).all(|slot| gate.opens_alone(s.clone(), slot))
            }),
            sometimes("all open", |_, s| s.runs.iter().all(|run| run.phase == Phase::Open)),
            sometimes("one goes on with another's journal", |_, s| {
                s.record.journal.is_some_and(|journal| journal.writer != journal.id)
            }),
            sometimes("a holder works on after its lease was taken over", |gate, s| {
                let stale = |run: &Run| run.sent().is_some() && s.holder != Some(run.id);
                *gate == Gate::WithoutLock || s.lease_is_live && s.runs.iter().any(stale)
            }),
            sometimes("a process dies before its commit arrives", |_, s| {
                let gone = |id| s.runs.iter().all(|run| run.id != id);
                s.in_flight.iter().any(|commit| gone(commit.run))
            }),
        ]
    }
}

/// Visits every state and asserts every property.
fn holds(gate: Gate) {
    let start = Instant::now();
    let checker = gate.checker().threads(2).spawn_bfs().join();
    let (states, steps) = (checker.unique_state_count(), checker.state_count());
    println!("{gate:?} holds: {states} states, {steps} steps, {:.1?}", start.elapsed());
    checker.assert_properties();
}

/// Visits states until the property fails, and prints the steps that lead there.
fn fails(gate: Gate, property: &'static str) {
    let until = HasDiscoveries::AnyOf([property].into());
    let checker = gate.checker().threads(2).finish_when(until).spawn_bfs().join();
    let (states, path) = (checker.unique_state_count(), checker.assert_any_discovery(property));
    println!("{gate:?} fails {property:?}: {states} states, {:?}", path.into_actions());
}

#[test]
fn holds_with_crashes_lost_answers_and_leases_that_expire_under_a_paused_holder() {
    holds(Gate::Engine);
}

#[test]
fn holds_without_the_lock_which_only_saves_duplicate_work() {
    holds(Gate::WithoutLock);
}

#[test]
fn applies_twice_without_the_fence() {
    fails(Gate::WithoutFence, "never applied twice");
    fails(Gate::WithoutFence, "never two journals");
}

#[test]
fn applies_twice_when_an_unknown_commit_is_sent_again_blindly() {
    fails(Gate::RetriesBlindly, "never applied twice");
}

#[test]
fn skips_and_claims_when_an_unknown_commit_is_taken_for_done() {
    fails(Gate::GoesOnBlindly, "never skipped");
    fails(Gate::GoesOnBlindly, "never claimed by two");
}

#[test]
fn opens_unfinished_when_the_record_is_not_read_back() {
    fails(Gate::OpensBlindly, "never open while unfinished");
}
