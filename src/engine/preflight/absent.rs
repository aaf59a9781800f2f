//! Collections that upgrades name and the database does not have. That may be right, where a database never had
//! them; or a name is misspelt, which nothing else would show.

use std::collections::HashSet;

use crate::authoring::collections::Collections;
use crate::authoring::table::VersionUpgrade;
use crate::version::Version;

/// A step or a condition whose collection does not exist.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Absent {
    pub(crate) version: Version,
    /// The step or the condition, as it is named.
    pub(crate) by: String,
    pub(crate) collection: String,
    /// What follows for the step or the condition, in words.
    pub(crate) so: &'static str,
}

/// The collections that `upgrades` name, without their first `finished` steps, and that neither exist nor are created by
/// an earlier step. Each is listed once.
pub(crate) fn absent(
    upgrades: &[&VersionUpgrade],
    finished: usize,
    existing: &HashSet<String>,
) -> Vec<Absent> {
    let mut existing: HashSet<&str> = existing.iter().map(String::as_str).collect();
    let mut absent: Vec<Absent> = Vec::new();
    let mut skip = finished;
    for upgrade in upgrades {
        let mut note = |by: String, collection: &str, so: &'static str| {
            let said = |absent: &Absent| absent.collection == collection && absent.so == so;
            if !absent.iter().any(said) {
                let (version, collection) = (upgrade.version.clone(), collection.to_owned());
                absent.push(Absent { version, by, collection, so });
            }
        };
        if skip == 0 {
            for condition in upgrade.conditions() {
                if !existing.contains(&*condition.collection) {
                    let by = format!("condition \"{}\"", condition.description);
                    note(by, &condition.collection, "no document is found there");
                }
            }
        }
        for step in upgrade.steps() {
            if skip > 0 {
                skip -= 1;
                continue;
            }
            let mut missed = |collection: &str, part: Option<String>, so| {
                let parts = [Some(format!("step \"{}\"", step.name())), part];
                note(parts.into_iter().flatten().collect::<Vec<_>>().join(", "), collection, so);
            };
            step.declare_collections(&mut Collections::new(&mut existing, &mut missed));
        }
    }
    absent
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Document, doc};

    use super::*;
    use crate::authoring::command::Command;
    use crate::authoring::condition::Condition;
    use crate::authoring::lookup::{Keys, Lookup};
    use crate::authoring::seed::Seed;
    use crate::authoring::table::Upgrades;
    use crate::authoring::transform::Transform;
    use crate::authoring::upgrade::Upgrade;

    fn found(upgrades: Vec<Upgrade>, finished: usize, existing: &[&str]) -> Vec<String> {
        let code = Version::parse_code("0.9.0").unwrap();
        let upgrades = Upgrades::new(upgrades, &code).unwrap();
        let upgrades: Vec<&VersionUpgrade> = upgrades.versions().iter().collect();
        let existing = existing.iter().map(|name| (*name).to_owned()).collect();
        let absent = absent(&upgrades, finished, &existing);
        let text = |a: Absent| format!("{}: {}: {}: {}", a.version, a.by, a.collection, a.so);
        absent.into_iter().map(text).collect()
    }

    fn transform(collection: &'static str) -> Transform {
        Transform::new(collection, |_, _, _| Ok(()))
    }

    #[test]
    fn what_exists_or_comes_to_be_by_an_earlier_step_is_not_absent() {
        let first = Upgrade::new("0.8.0", "a")
            .step(transform("things").inserts_into("parts"))
            .step(transform("parts"))
            .step(Seed::new("roles", Vec::<Document>::new()))
            .step(transform("roles"))
            .step(Command::rename("old", "new"));
        let second = Upgrade::new("0.9.0", "b").step(transform("new")).step(transform("roles"));
        let upgrades = vec![first, second];
        assert_eq!(found(upgrades.clone(), 0, &["things", "old"]), Vec::<String>::new());
        // the run that was killed renamed it
        assert_eq!(found(upgrades, 4, &["things", "new", "roles"]), Vec::<String>::new());
    }

    #[test]
    fn each_absent_collection_is_named_once_with_who_asks_for_it() {
        let lookup = Lookup::new("owner", "peple", "name", |_, _: &mut Keys| {});
        let upgrade = Upgrade::new("0.8.0", "a")
            .condition(Condition::no_document("thigns", doc! {}, "there is none"))
            .step(transform("thigns").lookup(lookup))
            .step(transform("thigns").named("again"))
            .step(Command::create_index("thinsg", "by n", doc! { "n": 1 }))
            .step(Command::drop_index("htings", "by n"))
            .step(Command::drop_collection("things"));
        assert_eq!(
            found(vec![upgrade], 0, &["things", "people"]),
            [
                "0.8.0: condition \"there is none\": thigns: no document is found there",
                "0.8.0: step \"transform thigns\": thigns: nothing to do there",
                "0.8.0: step \"transform thigns\", look-up \"owner\": peple: nothing is found there",
                "0.8.0: step \"Create index by n on thinsg\": thinsg: the step creates it",
                "0.8.0: step \"Drop index by n on htings\": htings: nothing to do there",
            ]
        );
    }
}
