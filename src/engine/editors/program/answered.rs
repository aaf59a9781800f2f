//! Whether a program answers the same input alike: remembered of a part of its inputs that is chosen by their hashes, so
//! that the preflight and the writing remember the same ones, in little memory however many there are.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::authoring::editor::Answer;

/// How many inputs are remembered.
const MOST: usize = 1 << 16;

/// Of how many inputs each is asked about a second time at once, because a run may see every document only once.
const TWICE: usize = 256;

/// The answers to inputs, by hashes of both.
#[derive(Default)]
pub(crate) struct Answered {
    answers: HashMap<u64, u64>,
    /// Only inputs whose hash has none of these bits are remembered.
    skipped: u64,
}

/// How an answer compares with what is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Same,
    Different,
    /// The first answer to this input, and one of few: the program should be asked about it again.
    First,
    /// Nothing is known of the input.
    Unknown,
}

impl Answered {
    /// Compares the answer to an input with the one before, and remembers it where it is the first.
    pub(super) fn compare(&mut self, input: u64, answer: u64) -> Comparison {
        match self.answers.get(&input) {
            Some(before) if *before == answer => return Comparison::Same,
            Some(_) => return Comparison::Different,
            None => {}
        }
        if input & self.skipped != 0 {
            return Comparison::Unknown;
        }
        self.answers.insert(input, answer);
        if self.answers.len() > MOST {
            self.skipped = self.skipped << 1 | 1;
            self.answers.retain(|input, _| input & self.skipped == 0);
        }
        match self.answers.len() <= TWICE {
            true => Comparison::First,
            false => Comparison::Unknown,
        }
    }
}

/// The hash of an input, from its parts.
pub(super) fn of_input<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.into_iter().for_each(|part| hasher.write(part));
    hasher.finish()
}

/// The hash of an answer, the same for answers that do the same.
pub(super) fn of_answer(answer: &Answer) -> u64 {
    let Answer { set, unset, inserts, counts, delete, refuse, .. } = answer;
    let mut unset: Vec<&String> = unset.iter().collect();
    let mut counts: Vec<_> = counts.iter().collect();
    unset.sort_unstable();
    counts.sort_unstable();
    let mut hasher = DefaultHasher::new();
    (set.as_bytes(), unset, counts, delete, refuse).hash(&mut hasher);
    let mut inserts: Vec<_> = inserts.iter().map(|(into, one)| (into, one.as_bytes())).collect();
    inserts.sort_unstable();
    inserts.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_answer_to_the_same_input_is_found_and_memory_is_bounded() {
        let mut answered = Answered::default();
        let inputs: Vec<u64> = (0..300_000_u64).map(|n| of_input([&n.to_le_bytes()[..]])).collect();
        for (n, input) in inputs.iter().enumerate() {
            let first = answered.compare(*input, n as u64);
            assert_eq!(first == Comparison::First, n < TWICE);
        }
        assert!(answered.answers.len() <= MOST);
        let known = inputs.iter().enumerate().filter(|(n, input)| {
            match answered.compare(**input, *n as u64 + 1) {
                Comparison::Different => true,
                Comparison::Unknown => false,
                other => panic!("{other:?}"),
            }
        });
        assert!(known.count() > MOST / 3);
    }

    #[test]
    fn answers_that_do_the_same_are_the_same() {
        let answer = |counts: &[(&'static str, u64)], unset: &[&str]| Answer {
            counts: counts.iter().map(|(name, n)| ((*name).into(), *n)).collect(),
            unset: unset.iter().map(|name| (*name).to_owned()).collect(),
            ..Answer::default()
        };
        let one = of_answer(&answer(&[("a", 1), ("b", 2)], &["x", "y"]));
        assert_eq!(one, of_answer(&answer(&[("b", 2), ("a", 1)], &["y", "x"])));
        assert_ne!(one, of_answer(&answer(&[("a", 2), ("b", 1)], &["x", "y"])));
    }
}
