//! A whole application's gate, to copy: a workshop that lends tools and books, with five upgrades of its
//! database, each of a kind that is hard to get right by hand.

pub mod upgrades;

use std::process::ExitCode;

use upgrade_gate::Gate;

fn main() -> ExitCode {
    // The only place that reads the environment: upgrades take what they need as arguments.
    let currency = std::env::var("TOOLSHED_CURRENCY").unwrap_or_else(|_| "EUR".to_owned());
    gate(&currency).main()
}

/// The gate of toolshed 2.5.0.
pub fn gate(currency: &str) -> Gate {
    Gate::new("toolshed", "2.5.0").upgrades(upgrades::all(currency))
}
