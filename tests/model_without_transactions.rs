//! What no transaction holds, in every interleaving, by stateright: the drop of a collection, and
//! edits on a standalone server, both from a journal that is written already.
//!
//! There is no lock: a lease verified just before a message changes nothing for a run that is
//! paused right after. A message in flight may arrive at any later time, and more than once; one
//! that is lost is one that does not arrive. `tests/model.rs` has lock, fence and journal.

use stateright::{Checker, HasDiscoveries, Model, Property};
use std::{fmt::Debug, hash::Hash, time::Instant};

const RUNNERS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Version {
    Old,
    Target,
}

/// Visits every state and asserts every property.
fn holds<M>(model: M)
where
    M: Model<State: Clone + Debug + Hash + PartialEq + Send + Sync> + Debug + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let (name, start) = (format!("{model:?}"), Instant::now());
    let checker = model.checker().threads(2).spawn_bfs().join();
    let (states, steps) = (checker.unique_state_count(), checker.state_count());
    println!("{name} holds: {states} states, {steps} steps, {:.1?}", start.elapsed());
    checker.assert_properties();
}

/// Visits states until the property fails, and prints the steps that lead there.
fn fails<M>(model: M, property: &'static str)
where
    M: Model<State: Clone + Debug + Hash + PartialEq + Send + Sync> + Debug + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let (name, until) = (format!("{model:?}"), HasDiscoveries::AnyOf([property].into()));
    let checker = model.checker().threads(2).finish_when(until).spawn_bfs().join();
    let (states, path) = (checker.unique_state_count(), checker.assert_any_discovery(property));
    println!("{name} fails {property:?}: {states} states, {:?}", path.into_actions());
}

fn replace<T, const N: usize>(mut all: [T; N], index: usize, one: T) -> [T; N] {
    all[index] = one;
    all
}

/// The upgrade's drop of a collection, after the journal named it. A command is in no transaction.
mod command {
    use super::*;

    /// How the drop names the collection.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Drop {
        ByUuid,
        ByName,
    }

    /// Two of the same name, told apart by their UUIDs.
    #[derive(Clone, Copy, Debug, PartialEq, Hash)]
    enum Collection {
        Obsolete,
        /// Created by the application when the gate is open.
        Apps,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    enum Phase {
        Looking,
        Probing,
        /// Found what the journal names, verified the lease, and is about to send the drop.
        Sending,
        /// Found it gone, and is about to move the version and remove the journal.
        Finishing,
        Open,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Hash)]
    struct State {
        version: Version,
        collection: Option<Collection>,
        drop_sent: bool,
        app_started: bool,
        runs: [Phase; RUNNERS],
    }

    impl Model for Drop {
        type State = State;
        /// Each action is the state that it leads to.
        type Action = State;

        fn init_states(&self) -> Vec<State> {
            vec![State {
                version: Version::Old,
                collection: Some(Collection::Obsolete),
                drop_sent: false,
                app_started: false,
                runs: [Phase::Looking; RUNNERS],
            }]
        }

        fn actions(&self, state: &State, next: &mut Vec<State>) {
            for (slot, phase) in state.runs.into_iter().enumerate() {
                let go = |to| State { runs: replace(state.runs, slot, to), ..*state };
                next.push(match phase {
                    Phase::Looking if state.version == Version::Target => go(Phase::Open),
                    Phase::Looking => go(Phase::Probing),
                    Phase::Probing if state.collection == Some(Collection::Obsolete) => {
                        go(Phase::Sending)
                    }
                    Phase::Probing => go(Phase::Finishing),
                    Phase::Sending => State { drop_sent: true, ..go(Phase::Looking) },
                    Phase::Finishing => State { version: Version::Target, ..go(Phase::Looking) },
                    Phase::Open => *state,
                });
                // A crash, and a new process.
                next.push(go(Phase::Looking));
            }
            let hits = *self == Drop::ByName || state.collection == Some(Collection::Obsolete);
            if state.drop_sent && hits {
                next.push(State { collection: None, ..*state });
            }
            if state.version == Version::Target && !state.app_started {
                let collection = Some(Collection::Apps);
                next.push(State { app_started: true, collection, ..*state });
            }
        }

        fn next_state(&self, _: &State, mut next: State) -> Option<State> {
            next.runs.sort();
            Some(next)
        }

        fn properties(&self) -> Vec<Property<Self>> {
            vec![
                Property::always("the app's collection is never dropped", |_, s: &State| {
                    !s.app_started || s.collection == Some(Collection::Apps)
                }),
                Property::always("the drop is never skipped", |_, s: &State| {
                    s.version == Version::Old || s.collection != Some(Collection::Obsolete)
                }),
                Property::sometimes(
                    "a stale holder sends its drop beside the app",
                    |_, s: &State| s.app_started && s.runs.contains(&Phase::Sending),
                ),
            ]
        }
    }

    #[test]
    fn never_drops_what_the_app_created_under_the_same_name() {
        holds(Drop::ByUuid);
    }

    #[test]
    fn drops_what_the_app_created_when_the_drop_goes_by_name() {
        fails(Drop::ByName, "the app's collection is never dropped");
    }
}

/// Edits on a server without transactions, beside a user, each before its place in the journal.
mod standalone {
    use super::*;

    const DOCUMENTS: usize = 2;
    const USER_WRITES: usize = 2;

    /// What an edit has in its filter beside the `_id`.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Edit {
        OnOldValue,
        OnAnyValue,
    }

    /// A field of the old or the new shape, and how many of the user's writes its value contains.
    type Field = (Version, usize);

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    enum Phase {
        Looking,
        Reading { document: usize },
        Sending { document: usize, writes: usize },
        Moving { document: usize },
        Open,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Hash)]
    struct State {
        /// The journal's position; after the last document, the version has moved.
        next: usize,
        fields: [Field; DOCUMENTS],
        /// The user's acknowledged writes.
        acknowledged: [usize; DOCUMENTS],
        /// Edits sent, by document and by the writes in the value that they were computed from.
        sent: [[bool; USER_WRITES + 1]; DOCUMENTS],
        runs: [Phase; RUNNERS],
    }

    impl Model for Edit {
        type State = State;
        /// Each action is the state that it leads to.
        type Action = State;

        fn init_states(&self) -> Vec<State> {
            vec![State {
                next: 0,
                fields: [(Version::Old, 0); DOCUMENTS],
                acknowledged: [0; DOCUMENTS],
                sent: [[false; USER_WRITES + 1]; DOCUMENTS],
                runs: [Phase::Looking; RUNNERS],
            }]
        }

        fn actions(&self, state: &State, next: &mut Vec<State>) {
            for (slot, phase) in state.runs.into_iter().enumerate() {
                let go = |to| State { runs: replace(state.runs, slot, to), ..*state };
                next.push(match phase {
                    Phase::Looking if state.next == DOCUMENTS => go(Phase::Open),
                    Phase::Looking => go(Phase::Reading { document: state.next }),
                    Phase::Reading { document } => match state.fields[document] {
                        (Version::Old, writes) => go(Phase::Sending { document, writes }),
                        (Version::Target, _) => go(Phase::Moving { document }),
                    },
                    // Hit, miss or no answer: what became of it is read.
                    Phase::Sending { document, writes } => {
                        let mut sent = state.sent;
                        sent[document][writes] = true;
                        State { sent, ..go(Phase::Reading { document }) }
                    }
                    Phase::Moving { document } if state.next == document => {
                        State { next: document + 1, ..go(Phase::Looking) }
                    }
                    Phase::Moving { .. } => go(Phase::Looking),
                    Phase::Open => *state,
                });
                // A crash, and a new process.
                next.push(go(Phase::Looking));
            }
            for document in 0..DOCUMENTS {
                let field = state.fields[document];
                let with =
                    |field| State { fields: replace(state.fields, document, field), ..*state };
                let sent = (0..=USER_WRITES).filter(|writes| state.sent[document][*writes]);
                let hits = sent
                    .filter(|writes| *self == Edit::OnAnyValue || field == (Version::Old, *writes));
                next.extend(hits.map(|writes| with((Version::Target, writes))));
                if state.acknowledged[document] < USER_WRITES {
                    let mut user = with((field.0, field.1 + 1));
                    user.acknowledged[document] += 1;
                    next.push(user);
                }
            }
        }

        fn next_state(&self, _: &State, mut next: State) -> Option<State> {
            next.runs.sort();
            Some(next)
        }

        fn properties(&self) -> Vec<Property<Self>> {
            vec![
                Property::always("no user's write is lost", |_, s: &State| {
                    s.fields.map(|(_, writes)| writes) == s.acknowledged
                }),
                Property::always("never skipped", |_, s: &State| {
                    s.fields.iter().take(s.next).all(|(shape, _)| *shape == Version::Target)
                }),
                Property::sometimes("the user is faster than an edit", |_, s: &State| {
                    s.fields[0] == (Version::Old, 1) && s.sent[0][0]
                }),
            ]
        }
    }

    #[test]
    fn never_loses_what_a_user_writes_beside_the_upgrade() {
        holds(Edit::OnOldValue);
    }

    #[test]
    fn loses_what_a_user_writes_when_an_edit_matches_any_value() {
        fails(Edit::OnAnyValue, "no user's write is lost");
    }
}
