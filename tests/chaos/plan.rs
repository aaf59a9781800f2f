//! What a round is to be: everything here follows from its seed.

use std::time::Duration;

use fastrand::Rng;
use mongodb::bson::{Bson, doc};

use crate::support::mongod_version;

/// What moves a field, of code, of the server or of a program, and then depends on it.
const MOVES: [&str; 3] = ["move_field,twice", "evaluate,twice", "program,twice"];

/// The servers of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    ThreeMembers,
    OneMember,
    Standalone,
}

/// One round.
#[derive(Debug)]
pub struct Plan {
    pub seed: u64,
    pub kind: Kind,
    /// The upgrades of 0.8.1, 0.8.2 and so on.
    pub chain: Vec<&'static str>,
    pub documents: i32,
    pub batch_documents: i32,
    pub lease: Duration,
    /// How many runners are at it at once.
    pub runners: usize,
    /// For how long they are disturbed, unless the gate is open before.
    pub time: Duration,
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        let mut rng = Rng::with_seed(seed);
        let kind = match seed % 5 {
            0 | 2 => Kind::ThreeMembers,
            1 | 3 => Kind::OneMember,
            _ => Kind::Standalone,
        };
        let commands = match mongod_version() >= (6, 0) {
            true => ["rename,index", "drop,index", "drop_blocks,rename", "drop_blocks,drop"],
            false => ["index", "validator,index", "index,validator", "validator"],
        };
        let moves = MOVES[rng.usize(..3)];
        let mut chain = vec![moves, "pin", commands[rng.usize(..4)]];
        if kind != Kind::Standalone {
            chain.extend([
                "increment",
                "increment",
                "increment,stubborn",
                "increment_narrow,index",
            ]);
            chain.push("stubborn,singleton");
        }
        rng.shuffle(&mut chain);
        chain.truncate(rng.usize(2..=5));
        // at once, or in many parts
        let (documents, batch_documents) = match rng.u8(..4) {
            0 => (rng.i32(5..40), 50),
            _ => (rng.i32(100..500), rng.i32(2..12)),
        };
        Plan {
            seed,
            kind,
            chain,
            documents,
            batch_documents,
            lease: Duration::from_millis(rng.u64(300..1200)),
            runners: rng.usize(3..=8),
            time: Duration::from_secs(rng.u64(4..12)),
        }
    }

    /// Choices of its own for every actor, so that the pace of one does not change what others do.
    pub fn rng(&self, actor: u64) -> Rng {
        Rng::with_seed(self.seed.wrapping_mul(31).wrapping_add(actor))
    }

    pub fn versions(&self) -> impl Iterator<Item = String> {
        (1..=self.chain.len()).map(|patch| format!("0.8.{patch}"))
    }

    pub fn code(&self) -> String {
        self.versions().last().unwrap()
    }

    pub fn upgrades(&self) -> String {
        let units = self.versions().zip(&self.chain);
        units.map(|(version, unit)| format!("{version}={unit}")).collect::<Vec<_>>().join(";")
    }

    /// How often the chain has an upgrade of this name.
    pub fn times(&self, name: &str) -> i32 {
        self.chain.iter().flat_map(|unit| unit.split(',')).filter(|n| *n == name).count() as i32
    }

    /// Whether a field is moved, by whatever.
    pub fn moves(&self) -> bool {
        self.chain.iter().any(|unit| MOVES.contains(unit))
    }

    /// The version that comes with an upgrade of this name.
    pub fn version_of(&self, name: &str) -> Option<String> {
        let mut units = self.versions().zip(&self.chain);
        units.find(|(_, unit)| unit.split(',').any(|n| n == name)).map(|(version, _)| version)
    }

    /// The documents of `counters` that are there from the beginning, by `_id`s of several types.
    pub fn counters(&self) -> Vec<Bson> {
        let id = |n| match n % 3 {
            0 => Bson::Int32(n),
            1 => Bson::String(n.to_string()),
            _ => Bson::Document(doc! { "n": n }),
        };
        (0..self.documents).map(id).collect()
    }
}
