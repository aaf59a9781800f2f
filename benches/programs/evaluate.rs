//! A gate with one update that the server evaluates: every card gets a position.

use std::process::ExitCode;

use upgrade_gate::bson::doc;
use upgrade_gate::{Gate, Update, Upgrade};

fn main() -> ExitCode {
    let update = Update::new(
        "cards",
        doc! { "position": { "$exists": false } },
        [doc! { "$set": { "position": { "$ifNull": ["$order", 0] } } }, doc! { "$unset": "order" }],
    );
    let upgrade = Upgrade::new("1.1.0", "give every card a position");
    Gate::new("kanban", "1.1.0").upgrades([upgrade.step(update)]).main()
}
