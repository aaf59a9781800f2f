//! datalab's gate: the engine, and the upgrades of datalab's database.

mod pin_item_references;

use std::process::ExitCode;

use upgrade_gate::Gate;

/// The datalab release that this binary belongs to.
const CODE_VERSION: &str = match option_env!("DATALAB_VERSION") {
    Some(version) => version,
    None => "0.8.0",
};

fn gate() -> Gate {
    Gate::new("datalab", CODE_VERSION)
        .version_from("DATALAB_VERSION")
        .upgrades([pin_item_references::upgrade()])
}

fn main() -> ExitCode {
    gate().main()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_of_upgrades_is_right() {
        super::gate().check().unwrap();
    }
}
